UPDATE cursor SET sequence = :sequence, epoch = :epoch;

INSERT OR IGNORE INTO ledger_epoch (epoch, first_sequence, sequence)
VALUES (:its_epoch, :its_first_sequence, :sequence);

DELETE FROM suspension WHERE tenant = :tenant AND region = :region;

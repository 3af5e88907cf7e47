-- A residence is destroyed: nothing of its objects and keys stays (secure_delete overwrites the pages).
DELETE FROM object_terms WHERE tenant = :tenant;
DELETE FROM objects WHERE tenant = :tenant;
UPDATE vault_known SET data = NULL WHERE tenant = :tenant AND kind NOT IN ('ring', 'fence');

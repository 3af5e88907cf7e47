INSERT OR IGNORE INTO object_names (tenant, registration, uid, name)
SELECT :tenant, :registration, :uid, :name
WHERE EXISTS (SELECT 1 FROM objects WHERE tenant = :tenant AND uid = :uid AND sequence = :sequence);

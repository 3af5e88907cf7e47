INSERT OR IGNORE INTO object_terms (term, tenant, uid)
SELECT :term, :tenant, :uid
WHERE EXISTS (SELECT 1 FROM objects WHERE tenant = :tenant AND uid = :uid AND sequence = :sequence);

-- A residence is destroyed: nothing of its objects and keys stays (secure_delete overwrites the pages). So many rows at a time:
-- other residences' decrees are committed in between.
DELETE FROM object_terms WHERE (term, tenant, uid) IN
    (SELECT term, tenant, uid FROM object_terms WHERE tenant = :tenant LIMIT :page);
DELETE FROM objects WHERE rowid IN (SELECT rowid FROM objects WHERE tenant = :tenant LIMIT :page);
UPDATE vault_known SET data = NULL WHERE tenant = :tenant AND kind IN ('l2', 'l3') AND data IS NOT NULL;

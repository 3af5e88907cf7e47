-- What this node knows of each record of the vault: the newest revision it has seen, which no older one may replace, and a
-- copy of what key records say (objects have theirs in `objects`). The vault is read again, from its beginning.
CREATE TABLE vault_known (
    subject TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest BLOB NOT NULL,
    data BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX vault_known_of_tenant ON vault_known (tenant, kind);
ALTER TABLE vault_cursor ADD COLUMN digest TEXT NOT NULL DEFAULT '';
DELETE FROM vault_cursor;

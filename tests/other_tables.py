"""What a release with other tables does to a node's: they are made anew, and the vault is read again for them."""

OTHER_TABLES = """
DROP INDEX objects_by_state;
ALTER TABLE objects RENAME TO objects_before;
CREATE TABLE objects (
    tenant TEXT NOT NULL, registration TEXT NOT NULL, uid TEXT NOT NULL, sequence INTEGER NOT NULL,
    state INTEGER NOT NULL, found_as INTEGER NOT NULL, object_type INTEGER NOT NULL, record BLOB NOT NULL,
    note TEXT NOT NULL DEFAULT '', PRIMARY KEY (tenant, uid)
) STRICT;
DROP TABLE objects_before;
DELETE FROM vault_cursor;
"""

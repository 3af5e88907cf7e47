-- Locate by whatever tells objects apart (`execution/terms.py`), and by State: `found_as` is -1 where a date may have moved it.
-- Names were indexed by themselves before. The vault is read again, from its beginning.
DROP TABLE object_names;
DROP TABLE objects;
CREATE TABLE objects (
    tenant TEXT NOT NULL,
    registration TEXT NOT NULL,
    uid TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    state INTEGER NOT NULL,
    found_as INTEGER NOT NULL,
    object_type INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (tenant, uid)
) STRICT;
CREATE INDEX objects_of_system ON objects (tenant, registration);
CREATE INDEX objects_by_state ON objects (tenant, registration, found_as);
CREATE TABLE object_terms (
    term BLOB NOT NULL,
    tenant TEXT NOT NULL,
    uid TEXT NOT NULL,
    PRIMARY KEY (term, tenant, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_terms_of_object ON object_terms (tenant, uid);
DELETE FROM vault_cursor;

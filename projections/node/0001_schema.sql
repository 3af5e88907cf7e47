-- A crypto node's own database: the desired state of its tenants, and the catalogue of their (wrapped) objects.
CREATE TABLE node (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cursor_routine INTEGER NOT NULL,
    cursor_critical INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE residence (
    tenant TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    lease_s INTEGER NOT NULL,
    root TEXT,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE vault_cursor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL
) STRICT;

CREATE TABLE objects (
    tenant TEXT NOT NULL,
    registration TEXT NOT NULL,
    uid TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    state INTEGER NOT NULL,
    object_type INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (tenant, uid)
) STRICT;
CREATE INDEX objects_of_system ON objects (tenant, registration);

CREATE TABLE object_names (
    tenant TEXT NOT NULL,
    registration TEXT NOT NULL,
    uid TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (tenant, registration, name, uid)
) STRICT;

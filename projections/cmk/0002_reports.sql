-- What nodes say, and what callers asked before. Not of the ledger: an auditor's replay leaves these tables empty.
CREATE TABLE report_cursor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL
) STRICT;
INSERT INTO report_cursor (one, sequence) VALUES (1, 0);

CREATE TABLE node_ack (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    lane TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    above TEXT NOT NULL,
    obeyed TEXT NOT NULL,
    state TEXT NOT NULL,
    lease_s INTEGER NOT NULL,
    failure TEXT,
    boot_id TEXT NOT NULL,
    closed_boottime_ns INTEGER,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (node, tenant, lane)
) STRICT;
CREATE INDEX node_ack_of_residence ON node_ack (tenant, region, lane);

CREATE TABLE node_root (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    root_version TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (node, tenant)
) STRICT;

CREATE TABLE node_rotation (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    level TEXT NOT NULL,
    registration TEXT NOT NULL,
    rotation TEXT,
    version INTEGER NOT NULL,
    root_version TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (node, tenant, level, registration, version)
) STRICT;

-- HandedOut, WorkloadDenied, KeyUsage: how often, and the last one.
CREATE TABLE node_note (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    tag TEXT NOT NULL,
    about TEXT NOT NULL,
    times INTEGER NOT NULL,
    last TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (node, tenant, tag, about)
) STRICT;

CREATE TABLE request (
    actor TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    status INTEGER,
    answer BLOB,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (actor, method, path, key)
) STRICT;

-- Reports that count something: kept here, sealed and numbered, until the region's own server has them.
CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    place INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Each such report's number in a row of its own: a series begins anew with a new database.
CREATE TABLE report_series (
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    series TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind)
) STRICT;

-- Hand-outs that no report carries yet, and how far each worker's log has been read.
CREATE TABLE handed_out (
    tenant TEXT NOT NULL,
    registration TEXT NOT NULL,
    workload TEXT NOT NULL,
    object_id TEXT NOT NULL,
    wrapped INTEGER NOT NULL,
    times INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, registration, workload, object_id, wrapped)
) STRICT;
CREATE TABLE handed_log (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT;

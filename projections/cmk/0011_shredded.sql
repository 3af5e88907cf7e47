-- What nodes removed of destroyed residences, in their own sealed words. Of reports: an auditor's replay leaves it empty.
CREATE TABLE node_shredded (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    vault TEXT NOT NULL,
    rows_removed INTEGER NOT NULL,
    log_truncated INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, region, node, at_ms)
) STRICT;

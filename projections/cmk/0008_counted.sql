-- Hand-outs by workload and form, added up from nodes' reports; and how far each node's reports have been counted.
CREATE TABLE handed_out (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    registration TEXT NOT NULL,
    workload TEXT NOT NULL,
    form TEXT NOT NULL CHECK (form IN ('plain', 'wrapped', 'unknown')),
    times INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (node, tenant, registration, workload, form)
) STRICT;
CREATE INDEX handed_out_of_residence ON handed_out (tenant, region);

-- Reports of a series are numbered without a gap: none is counted twice, and `missing` are those that never came.
CREATE TABLE counted_series (
    node TEXT NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    series TEXT NOT NULL,
    number INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    PRIMARY KEY (node, tenant, kind, series)
) STRICT;

INSERT INTO handed_out (node, region, tenant, registration, workload, form, times, first_ms, last_ms)
SELECT node, region, tenant, json_extract(last, '$.registration'), json_extract(last, '$.workload'), 'unknown',
    sum(times), min(at_ms), max(at_ms)
FROM node_note WHERE tag = 'HandedOut.1' GROUP BY 1, 2, 3, 4, 5;
DELETE FROM node_note WHERE tag = 'HandedOut.1';

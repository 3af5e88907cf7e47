-- Nodes acknowledge each epoch for itself, and an ack is a promise: an older one that comes late takes nothing back.
-- Reports are read again from the start, into the new table.
DROP TABLE node_ack;
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
    PRIMARY KEY (node, tenant, lane, epoch)
) STRICT;
CREATE INDEX node_ack_of_residence ON node_ack (tenant, region, lane);
UPDATE report_cursor SET sequence = 0;

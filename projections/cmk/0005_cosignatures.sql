-- The newest checkpoint that each node found to be its own mirror's, with its signature. Of reports, not of the ledger.
CREATE TABLE node_cosignature (
    node TEXT NOT NULL PRIMARY KEY,
    tree TEXT NOT NULL,
    verifier TEXT NOT NULL,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

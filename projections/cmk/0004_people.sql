-- tenant: routine
CREATE TABLE approval_policy (
    tenant TEXT PRIMARY KEY,
    quorum INTEGER NOT NULL
) STRICT;
CREATE TABLE termination (
    tenant TEXT PRIMARY KEY,
    regions TEXT NOT NULL,
    reason TEXT NOT NULL,
    requested_ms INTEGER NOT NULL,
    terminated_ms INTEGER,
    nodes TEXT,
    by_lease TEXT
) STRICT;

-- Not of the ledger: who is signed in to the pages. `cookie` is the SHA-256 of a random number that only the browser has.
CREATE TABLE session (
    cookie TEXT PRIMARY KEY,
    issuer TEXT NOT NULL,
    person TEXT NOT NULL,
    auth_time_s INTEGER NOT NULL,
    begun_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL
) STRICT;
CREATE INDEX session_of_person ON session (issuer, person);
-- Approval keys that people made before anybody signed them into force; nothing counts them until a decree does.
CREATE TABLE offered_key (
    issuer TEXT NOT NULL,
    person TEXT NOT NULL,
    approval_key TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (issuer, person)
) STRICT;

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

-- Who can sign for a tenant, as JSON.
CREATE VIEW signer AS
SELECT t.tenant, (
    SELECT json_group_array(json_object('person', p.person, 'public_key', p.approval_key))
    FROM person AS p WHERE p.tenant = t.tenant AND p.approval_key IS NOT NULL
) AS people
FROM tenant AS t;
-- What two people agreed to, by the event that says so.
CREATE TABLE agreed (
    sequence INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    approval TEXT
) STRICT;
CREATE INDEX agreed_by_approval ON agreed (tenant, approval);

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

-- The read model of governance. Each table here is fed by the decrees of ONE lane, so that the lanes may arrive in any
-- interleaving; the views at the end join them. The auditor replays the ledger into these very statements.
CREATE TABLE cursor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO cursor (one, sequence, epoch) VALUES (1, 0, 0);

-- What could not be taken in: a bad seal, a wrong subject or lane, a gap, an unknown event. It changes nothing else.
CREATE TABLE rejected (
    sequence INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE event_routine (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    tag TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    counter INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    issuer TEXT NOT NULL,
    person TEXT NOT NULL,
    correlation TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX event_routine_of_tenant ON event_routine (tenant, sequence);
CREATE INDEX event_routine_by_id ON event_routine (id);

CREATE TABLE event_critical (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    tag TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    counter INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    issuer TEXT NOT NULL,
    person TEXT NOT NULL,
    correlation TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX event_critical_of_tenant ON event_critical (tenant, sequence);
CREATE INDEX event_critical_by_id ON event_critical (id);

-- How far each aggregate's lane has come, in each epoch.
CREATE TABLE mark_routine (
    subject TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    counter INTEGER NOT NULL,
    head TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (subject, epoch)
) STRICT;
CREATE INDEX mark_routine_of_tenant ON mark_routine (tenant, region);

CREATE TABLE mark_critical (
    subject TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    counter INTEGER NOT NULL,
    head TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (subject, epoch)
) STRICT;
CREATE INDEX mark_critical_of_tenant ON mark_critical (tenant, region);

-- ledger: routine
CREATE TABLE ledger_epoch (
    epoch INTEGER PRIMARY KEY,
    first_sequence INTEGER NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE node_enrolled (
    key TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    public_key TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE access_denied (
    sequence INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    tenant TEXT,
    region TEXT,
    at_ms INTEGER NOT NULL
) STRICT;
-- ledger: critical
CREATE TABLE node_removed (
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (node, sequence)
) STRICT;
CREATE TABLE signing_key (
    key TEXT PRIMARY KEY,
    public_key TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE signing_key_retired (
    key TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) STRICT;

-- tenant: routine
CREATE TABLE tenant (
    tenant TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE person (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    approval_key TEXT,
    PRIMARY KEY (tenant, person)
) STRICT;
CREATE TABLE person_role (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY (tenant, person, role)
) STRICT;
CREATE INDEX person_role_of_person ON person_role (person);
CREATE TABLE tenant_region (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    PRIMARY KEY (tenant, region)
) STRICT;

-- approval: routine
CREATE TABLE approval (
    tenant TEXT NOT NULL,
    approval TEXT NOT NULL,
    command TEXT NOT NULL,
    region TEXT,
    arguments TEXT NOT NULL,
    statement TEXT NOT NULL,
    proposer TEXT NOT NULL,
    fence_seen INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    event TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, approval)
) STRICT;
CREATE TABLE approval_grant (
    tenant TEXT NOT NULL,
    approval TEXT NOT NULL,
    person TEXT NOT NULL,
    PRIMARY KEY (tenant, approval, person)
) STRICT;

-- residence: routine
CREATE TABLE configuration (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lease_s INTEGER NOT NULL,
    hand_out TEXT NOT NULL,
    max_objects INTEGER NOT NULL,
    labels TEXT NOT NULL,
    PRIMARY KEY (tenant, region)
) STRICT;
-- Every lease that was ever ordered: a shorter one counts only once the nodes have it.
CREATE TABLE lease (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lease_s INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, epoch, generation)
) STRICT;
CREATE TABLE approvers_set (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    version INTEGER NOT NULL,
    approvers TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (tenant, region, version)
) STRICT;
CREATE TABLE approval_used (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    approval TEXT NOT NULL,
    PRIMARY KEY (tenant, region, approval)
) STRICT;
CREATE TABLE root_key (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    provider TEXT NOT NULL,
    ref TEXT NOT NULL,
    credential TEXT,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (tenant, region)
) STRICT;
CREATE TABLE registered_system (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    registration TEXT NOT NULL,
    system TEXT NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, registration)
) STRICT;
CREATE TABLE enrolled_workload (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    enrolment TEXT NOT NULL,
    workload TEXT NOT NULL,
    system TEXT NOT NULL,
    registration TEXT NOT NULL,
    fingerprint TEXT,
    spiffe TEXT,
    generation INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, enrolment)
) STRICT;
CREATE TABLE rotation (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    rotation TEXT NOT NULL,
    level TEXT NOT NULL,
    registration TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, rotation)
) STRICT;
CREATE TABLE suspension (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (tenant, region)
) STRICT;
CREATE TABLE lifted (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    event TEXT NOT NULL,
    approval TEXT NOT NULL,
    PRIMARY KEY (tenant, region, event)
) STRICT;
CREATE TABLE revocation_confirmed (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    event TEXT NOT NULL,
    outcome TEXT NOT NULL,
    nodes TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, event)
) STRICT;

-- residence: critical
CREATE TABLE revocation (
    event TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    person TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX revocation_of_residence ON revocation (tenant, region, epoch, fence);
CREATE TABLE removed (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (tenant, region, id)
) STRICT;
CREATE TABLE emergency_floor (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    level TEXT NOT NULL,
    registration TEXT NOT NULL,
    below INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, level, registration)
) STRICT;
CREATE TABLE destruction (
    event TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    approvers_version INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;

-- Views: the lanes meet here, and only here.
CREATE VIEW event AS
SELECT * FROM event_routine UNION ALL SELECT * FROM event_critical;

CREATE VIEW node AS
SELECT e.node, e.region, e.key, e.public_key, e.sequence,
    (SELECT min(r.sequence) FROM node_removed AS r WHERE r.node = e.node AND r.sequence > e.sequence) AS removed_at
FROM node_enrolled AS e;

CREATE VIEW open_revocation AS
SELECT r.tenant, r.region, r.epoch, r.fence, r.event, r.reason, r.person, r.at_ms
FROM revocation AS r
WHERE r.fence = (
    SELECT max(o.fence) FROM revocation AS o
    WHERE o.tenant = r.tenant AND o.region = r.region AND o.epoch = r.epoch
) AND NOT EXISTS (
    SELECT 1 FROM lifted AS l WHERE l.tenant = r.tenant AND l.region = r.region AND l.event = r.event
);

CREATE VIEW destroyed AS
SELECT x.tenant, x.region, x.event FROM destruction AS x
WHERE signed('ContextDestroyed.1', x.tenant, x.region, x.body, (
    SELECT a.approvers FROM approvers_set AS a
    WHERE a.tenant = x.tenant AND a.region = x.region AND a.version = x.approvers_version
)) = 1;

CREATE VIEW system AS
SELECT s.* FROM registered_system AS s
WHERE NOT EXISTS (
    SELECT 1 FROM removed AS x WHERE x.tenant = s.tenant AND x.region = s.region AND x.id = s.registration
);

CREATE VIEW workload AS
SELECT w.* FROM enrolled_workload AS w
WHERE NOT EXISTS (
    SELECT 1 FROM removed AS x
    WHERE x.tenant = w.tenant AND x.region = w.region AND x.id IN (w.enrolment, w.registration)
);

CREATE VIEW residence AS
SELECT t.tenant, t.region,
    CASE
        WHEN EXISTS (SELECT 1 FROM destroyed AS x WHERE x.tenant = t.tenant AND x.region = t.region) THEN 'Destroyed'
        WHEN EXISTS (SELECT 1 FROM open_revocation AS x WHERE x.tenant = t.tenant AND x.region = t.region)
            THEN 'Revoked'
        WHEN s.reason IS NOT NULL THEN 'Suspended'
        WHEN EXISTS (SELECT 1 FROM registered_system AS x WHERE x.tenant = t.tenant AND x.region = t.region)
            AND k.ref IS NOT NULL THEN 'Active'
        WHEN k.ref IS NOT NULL THEN 'Linked'
        ELSE 'Requested'
    END AS state,
    coalesce(g.epoch, 0) AS routine_epoch, coalesce(g.counter, 0) AS generation, g.head AS routine_head,
    coalesce(f.epoch, 0) AS critical_epoch, coalesce(f.counter, 0) AS fence, f.head AS critical_head,
    c.lease_s, c.hand_out, c.max_objects, c.labels,
    k.provider, k.ref, k.credential, s.reason AS suspended_for
FROM tenant_region AS t
LEFT JOIN configuration AS c ON c.tenant = t.tenant AND c.region = t.region
LEFT JOIN root_key AS k ON k.tenant = t.tenant AND k.region = t.region
LEFT JOIN suspension AS s ON s.tenant = t.tenant AND s.region = t.region
LEFT JOIN mark_routine AS g ON g.tenant = t.tenant AND g.region = t.region AND g.kind = 'residence'
    AND g.epoch = (SELECT max(m.epoch) FROM mark_routine AS m WHERE m.subject = g.subject)
LEFT JOIN mark_critical AS f ON f.tenant = t.tenant AND f.region = t.region AND f.kind = 'residence'
    AND f.epoch = (SELECT max(m.epoch) FROM mark_critical AS m WHERE m.subject = f.subject);

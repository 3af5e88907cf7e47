-- CAs of tenants' own, which vouch for their own workloads (public certificates), and who vouches for a workload.
CREATE TABLE workload_authority (
    tenant TEXT NOT NULL,
    region TEXT NOT NULL,
    authority TEXT NOT NULL,
    certificate TEXT NOT NULL,
    name TEXT NOT NULL, -- as OpenSSL compares names
    generation INTEGER NOT NULL,
    PRIMARY KEY (tenant, region, authority)
) STRICT;
ALTER TABLE enrolled_workload ADD COLUMN authority TEXT;
DROP VIEW workload;
CREATE VIEW workload AS
SELECT w.* FROM enrolled_workload AS w
WHERE NOT EXISTS (
    SELECT 1 FROM removed AS x
    WHERE x.tenant = w.tenant AND x.region = w.region AND x.id IN (w.enrolment, w.registration, w.authority)
);
CREATE VIEW trusted_authority AS
SELECT a.* FROM workload_authority AS a
WHERE NOT EXISTS (
    SELECT 1 FROM removed AS x WHERE x.tenant = a.tenant AND x.region = a.region AND x.id = a.authority
);

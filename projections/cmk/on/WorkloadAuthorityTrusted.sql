-- Without two people's signatures, or when it is no root CA or another tenant's by name, it changes nothing: nodes
-- refuse it as well.
INSERT OR IGNORE INTO workload_authority (tenant, region, authority, certificate, name, generation)
SELECT :tenant, :region, :its_authority, json_extract(:data, '$.certificate'), c.name, :counter
FROM (SELECT root_ca(json_extract(:data, '$.certificate')) AS name) AS c
WHERE c.name IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM workload_authority AS o WHERE o.region = :region AND o.tenant <> :tenant AND o.name = c.name
) AND NOT EXISTS (
    SELECT 1 FROM approval_used AS u
    WHERE u.tenant = :tenant AND u.region = :region AND u.approval = :its_approval
) AND signed('WorkloadAuthorityTrusted.1', :tenant, :region, :data, (
    SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
    ORDER BY a.version DESC LIMIT 1
)) = 1;
INSERT OR IGNORE INTO approval_used (tenant, region, approval)
SELECT a.tenant, a.region, :its_approval FROM workload_authority AS a
WHERE a.tenant = :tenant AND a.region = :region AND a.authority = :its_authority
    AND a.generation = :counter;

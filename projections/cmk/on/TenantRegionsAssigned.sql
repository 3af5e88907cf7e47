-- The first list is free; a later one adds to it, with two people's signatures, or changes nothing.
INSERT INTO agreed (sequence, tenant, approval)
SELECT :sequence, :tenant, :its_approval
WHERE :its_approval IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM agreed AS a WHERE a.tenant = :tenant AND a.approval = :its_approval
) AND NOT EXISTS (
    SELECT 1 FROM tenant_region AS t WHERE t.tenant = :tenant
    AND t.region NOT IN (SELECT r.value FROM json_each(:data, '$.regions') AS r)
) AND signed('TenantRegionsAssigned.2', :tenant, 'global', :data, (
    SELECT s.people FROM signer AS s WHERE s.tenant = :tenant
)) = 1;
INSERT OR IGNORE INTO tenant_region (tenant, region)
SELECT :tenant, r.value FROM json_each(:data, '$.regions') AS r
WHERE EXISTS (SELECT 1 FROM agreed AS a WHERE a.sequence = :sequence)
    OR NOT EXISTS (SELECT 1 FROM tenant_region AS t WHERE t.tenant = :tenant);

-- RoleWithdrawn
INSERT INTO agreed (sequence, tenant, approval)
SELECT :sequence, :tenant, :its_approval
WHERE (:its_approval IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM agreed AS a WHERE a.tenant = :tenant AND a.approval = :its_approval
) AND signed('RoleWithdrawn.1', :tenant, 'global', :data, (SELECT s.people FROM signer AS s WHERE s.tenant = :tenant)) = 1);
DELETE FROM person_role
WHERE tenant = :tenant AND person = :its_person
    AND role IN (SELECT r.value FROM json_each(:data, '$.roles') AS r)
    AND EXISTS (SELECT 1 FROM agreed AS a WHERE a.sequence = :sequence);

-- RoleGranted
-- Two people signed it; or it is a person's own first key, while there are not yet two who could sign.
INSERT INTO agreed (sequence, tenant, approval)
SELECT :sequence, :tenant, :its_approval
WHERE (:its_approval IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM agreed AS a WHERE a.tenant = :tenant AND a.approval = :its_approval
) AND signed('RoleGranted.1', :tenant, 'global', :data, (SELECT s.people FROM signer AS s WHERE s.tenant = :tenant)) = 1)
OR (:its_approval IS NULL AND json_array_length(:data, '$.roles') = 0 AND EXISTS (
    SELECT 1 FROM person AS p WHERE p.tenant = :tenant AND p.person = :its_person
        AND p.approval_key IS NULL
) AND different_people((SELECT s.people FROM signer AS s WHERE s.tenant = :tenant)) < 2);
INSERT INTO person (tenant, person, approval_key)
SELECT :tenant, :its_person, json_extract(:data, '$.approval_key')
WHERE EXISTS (SELECT 1 FROM agreed AS a WHERE a.sequence = :sequence)
ON CONFLICT (tenant, person) DO UPDATE SET approval_key = coalesce(excluded.approval_key, approval_key);
INSERT OR IGNORE INTO person_role (tenant, person, role)
SELECT :tenant, :its_person, r.value FROM json_each(:data, '$.roles') AS r
WHERE EXISTS (SELECT 1 FROM agreed AS a WHERE a.sequence = :sequence);

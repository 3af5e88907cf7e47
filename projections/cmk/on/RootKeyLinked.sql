-- Another root over a linked one without two people's signatures changes nothing: nodes refuse it as well.
INSERT INTO root_key (tenant, region, provider, ref, credential, epoch, generation)
SELECT :tenant, :region, json_extract(:data, '$.root.provider'), json_extract(:data, '$.root.ref'),
    json_extract(:data, '$.root.credential'), :epoch, :counter
WHERE NOT EXISTS (
    SELECT 1 FROM root_key AS k WHERE k.tenant = :tenant AND k.region = :region
    AND NOT (k.provider IS json_extract(:data, '$.root.provider') AND k.ref IS json_extract(:data, '$.root.ref')
        AND k.credential IS json_extract(:data, '$.root.credential'))
)
OR (
    NOT EXISTS (
        SELECT 1 FROM approval_used AS u
        WHERE u.tenant = :tenant AND u.region = :region AND u.approval = :its_approval
    ) AND signed('RootKeyLinked.1', :tenant, :region, :data, (
        SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
        ORDER BY a.version DESC LIMIT 1
    )) = 1
)
ON CONFLICT (tenant, region) DO UPDATE SET provider = excluded.provider, ref = excluded.ref,
    credential = excluded.credential, epoch = excluded.epoch, generation = excluded.generation;
INSERT OR IGNORE INTO approval_used (tenant, region, approval)
SELECT k.tenant, k.region, :its_approval FROM root_key AS k
WHERE k.tenant = :tenant AND k.region = :region AND k.epoch = :epoch AND k.generation = :counter
    AND :its_approval IS NOT NULL;

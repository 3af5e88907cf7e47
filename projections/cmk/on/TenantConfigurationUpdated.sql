-- A longer lease without two people's signatures changes nothing: nodes refuse it as well.
INSERT INTO configuration (tenant, region, epoch, generation, lease_s, hand_out, max_objects, labels)
SELECT :tenant, :region, :epoch, :counter, json_extract(:data, '$.lease_s'), json_extract(:data, '$.hand_out'),
    json_extract(:data, '$.max_objects'), json_extract(:data, '$.labels')
WHERE coalesce(
    (SELECT c.lease_s FROM configuration AS c WHERE c.tenant = :tenant AND c.region = :region),
    json_extract(:data, '$.lease_s')
) >= json_extract(:data, '$.lease_s')
OR (
    NOT EXISTS (
        SELECT 1 FROM approval_used AS u
        WHERE u.tenant = :tenant AND u.region = :region AND u.approval = json_extract(:data, '$.approval')
    ) AND signed('TenantConfigurationUpdated.1', :tenant, :region, :data, (
        SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
        ORDER BY a.version DESC LIMIT 1
    )) = 1
)
ON CONFLICT (tenant, region) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation,
    lease_s = excluded.lease_s, hand_out = excluded.hand_out, max_objects = excluded.max_objects,
    labels = excluded.labels;
INSERT OR IGNORE INTO lease (tenant, region, epoch, generation, lease_s)
SELECT c.tenant, c.region, c.epoch, c.generation, c.lease_s FROM configuration AS c
WHERE c.tenant = :tenant AND c.region = :region AND c.lease_s IS NOT (
    SELECT l.lease_s FROM lease AS l WHERE l.tenant = :tenant AND l.region = :region
    ORDER BY l.epoch DESC, l.generation DESC LIMIT 1
);
INSERT OR IGNORE INTO approval_used (tenant, region, approval)
SELECT c.tenant, c.region, json_extract(:data, '$.approval') FROM configuration AS c
WHERE c.tenant = :tenant AND c.region = :region AND c.epoch = :epoch AND c.generation = :counter
    AND json_extract(:data, '$.approval') IS NOT NULL;

-- A longer lease without two people's signatures changes nothing: nodes refuse it as well. Each statement asks another
-- table than it writes: where a SELECT reads what it writes, SQLite copies all of it first.
INSERT OR IGNORE INTO lease (tenant, region, epoch, generation, lease_s)
SELECT :tenant, :region, :epoch, :counter, :its_lease_s
WHERE NOT EXISTS ( -- the first one, or a shorter one
    SELECT 1 FROM configuration AS c
    WHERE c.tenant = :tenant AND c.region = :region AND c.lease_s <= :its_lease_s
) OR (
    NOT EXISTS (
        SELECT 1 FROM configuration AS c
        WHERE c.tenant = :tenant AND c.region = :region AND c.lease_s = :its_lease_s
    ) AND NOT EXISTS (
        SELECT 1 FROM approval_used AS u
        WHERE u.tenant = :tenant AND u.region = :region AND u.approval = :its_approval
    ) AND signed('TenantConfigurationUpdated.1', :tenant, :region, :data, (
        SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
        ORDER BY a.version DESC LIMIT 1
    )) = 1
);
INSERT INTO configuration (tenant, region, epoch, generation, lease_s, hand_out, max_objects, labels)
VALUES (:tenant, :region, :epoch, :counter, :its_lease_s, :its_hand_out, :its_max_objects,
    json_extract(:data, '$.labels'))
ON CONFLICT (tenant, region) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation,
    lease_s = excluded.lease_s, hand_out = excluded.hand_out, max_objects = excluded.max_objects,
    labels = excluded.labels
WHERE excluded.lease_s = lease_s OR EXISTS (
    SELECT 1 FROM lease AS l
    WHERE (l.tenant, l.region, l.epoch, l.generation) = (:tenant, :region, :epoch, :counter)
);
INSERT OR IGNORE INTO approval_used (tenant, region, approval)
SELECT c.tenant, c.region, :its_approval FROM configuration AS c
WHERE c.tenant = :tenant AND c.region = :region AND c.epoch = :epoch AND c.generation = :counter
    AND :its_approval IS NOT NULL;

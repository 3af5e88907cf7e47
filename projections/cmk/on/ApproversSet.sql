-- In force only when it follows the set before, and (after the first) as many people of that set as it says signed it.
INSERT OR IGNORE INTO approvers_set (tenant, region, version, approvers, hash)
SELECT :tenant, :region, :its_version, n.people, approvers_hash(:tenant, :region, :data)
FROM (
    SELECT coalesce(:its_quorum, 2) AS quorum, json_object(
        'quorum', coalesce(:its_quorum, 2), 'approvers', json(json_extract(:data, '$.approvers'))
    ) AS people
) AS n
WHERE :its_version = 1 + (
    SELECT coalesce(max(a.version), 0) FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
) AND :its_previous IS (
    SELECT a.hash FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
    ORDER BY a.version DESC LIMIT 1
) AND different_people(n.people) >= n.quorum AND (
    :its_version = 1
    OR signed('ApproversSet.2', :tenant, :region, :data, (
        SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
        ORDER BY a.version DESC LIMIT 1
    )) = 1
);

-- In force only when it follows the set before, and (after the first) two people of that set signed it.
INSERT OR IGNORE INTO approvers_set (tenant, region, version, approvers, hash)
SELECT :tenant, :region, json_extract(:data, '$.version'), json_extract(:data, '$.approvers'),
    approvers_hash(:tenant, :region, :data)
WHERE json_extract(:data, '$.version') = 1 + (
    SELECT coalesce(max(a.version), 0) FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
) AND json_extract(:data, '$.previous') IS (
    SELECT a.hash FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
    ORDER BY a.version DESC LIMIT 1
) AND (
    json_extract(:data, '$.version') = 1
    OR signed('ApproversSet.1', :tenant, :region, :data, (
        SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
        ORDER BY a.version DESC LIMIT 1
    )) = 1
);

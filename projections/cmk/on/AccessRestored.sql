-- Lifts only what two people of the set in force signed, by id: governance's own seal is not enough.
INSERT OR IGNORE INTO lifted (tenant, region, event, approval)
SELECT :tenant, :region, json_extract(l.value, '$.event'), :its_approval
FROM json_each(:data, '$.lifts') AS l
WHERE :its_approvers_version = (
    SELECT max(a.version) FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
) AND signed('AccessRestored.1', :tenant, :region, :data, (
    SELECT a.approvers FROM approvers_set AS a WHERE a.tenant = :tenant AND a.region = :region
    ORDER BY a.version DESC LIMIT 1
)) = 1;

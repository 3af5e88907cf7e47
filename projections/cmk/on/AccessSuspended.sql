INSERT OR REPLACE INTO suspension (tenant, region, reason)
VALUES (:tenant, :region, json_extract(:data, '$.reason'));

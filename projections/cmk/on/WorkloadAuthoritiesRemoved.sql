INSERT OR IGNORE INTO removed (tenant, region, id)
SELECT :tenant, :region, e.value FROM json_each(:data, '$.authorities') AS e;

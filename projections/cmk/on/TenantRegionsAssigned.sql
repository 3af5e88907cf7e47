DELETE FROM tenant_region WHERE tenant = :tenant;
INSERT OR IGNORE INTO tenant_region (tenant, region)
SELECT :tenant, r.value FROM json_each(:data, '$.regions') AS r;

INSERT OR IGNORE INTO removed (tenant, region, id)
SELECT :tenant, :region, r.value FROM json_each(:data, '$.registrations') AS r;

-- TenantTerminationRequested
INSERT OR IGNORE INTO termination (tenant, regions, reason, requested_ms)
VALUES (:tenant, json_extract(:data, '$.regions'), :its_reason, :at_ms);

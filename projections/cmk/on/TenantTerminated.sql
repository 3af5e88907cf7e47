-- TenantTerminated
UPDATE termination SET terminated_ms = :at_ms, nodes = json_extract(:data, '$.nodes'),
    by_lease = json_extract(:data, '$.by_lease')
WHERE tenant = :tenant AND terminated_ms IS NULL;

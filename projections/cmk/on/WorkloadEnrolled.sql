INSERT OR IGNORE INTO enrolled_workload (tenant, region, enrolment, workload, system, registration, fingerprint,
    spiffe, authority, generation)
SELECT :tenant, :region, json_extract(:data, '$.enrolment'), json_extract(:data, '$.workload'),
    json_extract(:data, '$.system'), json_extract(:data, '$.registration'), json_extract(:data, '$.fingerprint'),
    json_extract(:data, '$.spiffe'), json_extract(:data, '$.authority'), :counter
WHERE json_extract(:data, '$.authority') IS NULL OR EXISTS (
    SELECT 1 FROM workload_authority AS a
    WHERE a.tenant = :tenant AND a.region = :region AND a.authority = json_extract(:data, '$.authority')
);

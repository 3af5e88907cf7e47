INSERT OR IGNORE INTO enrolled_workload (tenant, region, enrolment, workload, system, registration, fingerprint,
    spiffe, authority, generation)
VALUES (:tenant, :region, json_extract(:data, '$.enrolment'), json_extract(:data, '$.workload'),
    json_extract(:data, '$.system'), json_extract(:data, '$.registration'), json_extract(:data, '$.fingerprint'),
    json_extract(:data, '$.spiffe'), json_extract(:data, '$.authority'), :counter);

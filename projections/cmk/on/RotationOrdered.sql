INSERT OR IGNORE INTO rotation (tenant, region, rotation, level, registration, at_ms)
VALUES (:tenant, :region, json_extract(:data, '$.rotation'), json_extract(:data, '$.level'),
    json_extract(:data, '$.registration'), :at_ms);

INSERT INTO access_denied (sequence, person, action, reason, tenant, region, at_ms)
VALUES (:sequence, json_extract(:data, '$.person'), json_extract(:data, '$.action'), json_extract(:data, '$.reason'),
    json_extract(:data, '$.tenant'), json_extract(:data, '$.region'), :at_ms);

INSERT INTO access_denied (sequence, person, action, reason, at_ms)
VALUES (:sequence, json_extract(:data, '$.person'), json_extract(:data, '$.action'), json_extract(:data, '$.reason'),
    :at_ms);

INSERT INTO person (tenant, person, approval_key)
VALUES (:tenant, json_extract(:data, '$.person'), json_extract(:data, '$.approval_key'))
ON CONFLICT (tenant, person) DO UPDATE SET approval_key = coalesce(excluded.approval_key, approval_key);
INSERT OR IGNORE INTO person_role (tenant, person, role)
SELECT :tenant, json_extract(:data, '$.person'), r.value FROM json_each(:data, '$.roles') AS r;

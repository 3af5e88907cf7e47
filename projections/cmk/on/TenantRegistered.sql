INSERT OR IGNORE INTO tenant (tenant, at_ms, sequence) VALUES (:tenant, :at_ms, :sequence);
INSERT OR IGNORE INTO person (tenant, person, approval_key)
SELECT :tenant, json_extract(p.value, '$.person'), json_extract(p.value, '$.approval_key')
FROM json_each(:data, '$.people') AS p;
INSERT OR IGNORE INTO person_role (tenant, person, role)
SELECT :tenant, json_extract(p.value, '$.person'), r.value
FROM json_each(:data, '$.people') AS p, json_each(p.value, '$.roles') AS r;

DELETE FROM person_role WHERE tenant = :tenant AND person = json_extract(:data, '$.person')
    AND role IN (SELECT r.value FROM json_each(:data, '$.roles') AS r);

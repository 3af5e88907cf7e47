INSERT OR IGNORE INTO signing_key (key, public_key, sequence)
VALUES (:its_key, json_extract(:data, '$.public_key'), :sequence);
INSERT OR IGNORE INTO signing_key_retired (key, sequence)
SELECT retired.value, :sequence FROM json_each(:data, '$.retires') AS retired;

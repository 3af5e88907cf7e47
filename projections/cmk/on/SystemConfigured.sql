UPDATE registered_system SET hand_out = json_extract(:data, '$.hand_out')
WHERE tenant = :tenant AND region = :region AND registration = json_extract(:data, '$.registration');

INSERT OR IGNORE INTO registered_system (tenant, region, registration, system, generation, hand_out)
VALUES (:tenant, :region, json_extract(:data, '$.registration'), json_extract(:data, '$.system'), :counter,
    json_extract(:data, '$.hand_out'));

INSERT OR IGNORE INTO registered_system (tenant, region, registration, system, generation)
VALUES (:tenant, :region, json_extract(:data, '$.registration'), json_extract(:data, '$.system'), :counter);

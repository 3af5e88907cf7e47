INSERT INTO emergency_floor (tenant, region, level, registration, below)
VALUES (:tenant, :region, json_extract(:data, '$.level'), coalesce(json_extract(:data, '$.registration'), ''),
    json_extract(:data, '$.below'))
ON CONFLICT (tenant, region, level, registration) DO UPDATE SET below = max(below, excluded.below);

INSERT INTO node_rotation (node, region, tenant, level, registration, rotation, version, root_version, at_ms)
VALUES (:node, :region, :tenant, json_extract(:data, '$.level'), coalesce(json_extract(:data, '$.registration'), ''),
    json_extract(:data, '$.rotation'), json_extract(:data, '$.version'), json_extract(:data, '$.root_version'), :at_ms)
ON CONFLICT (node, tenant, level, registration, version) DO UPDATE SET rotation = excluded.rotation,
    root_version = excluded.root_version, at_ms = excluded.at_ms;

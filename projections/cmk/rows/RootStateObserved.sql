INSERT INTO node_root (node, region, tenant, state, detail, root_version, at_ms)
VALUES (:node, :region, :tenant, json_extract(:data, '$.state'), coalesce(json_extract(:data, '$.detail'), ''),
    json_extract(:data, '$.root_version'), :at_ms)
ON CONFLICT (node, tenant) DO UPDATE SET region = excluded.region, state = excluded.state, detail = excluded.detail,
    root_version = excluded.root_version, at_ms = excluded.at_ms;

INSERT INTO node_shredded (node, region, tenant, vault, rows_removed, log_truncated, at_ms, body)
VALUES (:node, :region, :tenant, json_extract(:data, '$.vault'), json_extract(:data, '$.rows'),
    json_extract(:data, '$.log_truncated'), :at_ms, :body)
ON CONFLICT DO NOTHING;

INSERT INTO node_enrolled (key, node, region, public_key, sequence)
VALUES (json_extract(:data, '$.key'), json_extract(:data, '$.node'), json_extract(:data, '$.region'),
    json_extract(:data, '$.public_key'), :sequence)
ON CONFLICT (key) DO UPDATE SET node = excluded.node, region = excluded.region, sequence = excluded.sequence;

INSERT INTO node_enrolled (key, node, region, public_key, sequence)
VALUES (:its_key, :its_node, :its_region,
    json_extract(:data, '$.public_key'), :sequence)
ON CONFLICT (key) DO UPDATE SET node = excluded.node, region = excluded.region, sequence = excluded.sequence;

INSERT INTO node_removed (node, region, sequence)
VALUES (json_extract(:data, '$.node'), json_extract(:data, '$.region'), :sequence);

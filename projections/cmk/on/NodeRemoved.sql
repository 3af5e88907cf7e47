INSERT INTO node_removed (node, region, sequence)
VALUES (:its_node, :its_region, :sequence);

INSERT INTO tree (tree, epoch, size, sequence, edge) VALUES (:tree, :epoch, :size, :sequence, :edge)
ON CONFLICT (tree, epoch) DO UPDATE SET size = excluded.size, sequence = excluded.sequence, edge = excluded.edge;

INSERT INTO mirror_tree (one, sequence, body) VALUES (1, :sequence, :body)
ON CONFLICT (one) DO UPDATE SET sequence = excluded.sequence, body = excluded.body;

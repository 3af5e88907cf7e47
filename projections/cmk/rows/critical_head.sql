INSERT INTO critical_head (region, sequence, hash) VALUES (:region, :sequence, :hash)
ON CONFLICT (region) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash;

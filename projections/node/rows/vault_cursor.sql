INSERT INTO vault_cursor (one, sequence, digest) VALUES (1, :sequence, :digest)
ON CONFLICT (one) DO UPDATE SET sequence = excluded.sequence, digest = excluded.digest;

INSERT INTO vault_cursor (one, sequence) VALUES (1, :sequence)
ON CONFLICT (one) DO UPDATE SET sequence = max(sequence, excluded.sequence);

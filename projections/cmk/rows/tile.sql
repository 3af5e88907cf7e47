INSERT INTO tile (tree, epoch, level, number, first_sequence, hashes, sequences)
VALUES (:tree, :epoch, :level, :number, :first_sequence, :hashes, :sequences)
ON CONFLICT (tree, epoch, level, number) DO UPDATE SET hashes = excluded.hashes, sequences = excluded.sequences;

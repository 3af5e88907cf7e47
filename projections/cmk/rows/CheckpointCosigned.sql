INSERT INTO node_cosignature (node, tree, verifier, note, at_ms)
VALUES (:node, :region, json_extract(:data, '$.verifier'), json_extract(:data, '$.note'), :at_ms)
ON CONFLICT (node) DO UPDATE SET tree = excluded.tree, verifier = excluded.verifier, note = excluded.note,
    at_ms = excluded.at_ms;

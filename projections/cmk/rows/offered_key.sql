INSERT INTO offered_key (issuer, person, approval_key, at_ms) VALUES (:issuer, :person, :approval_key, :at_ms)
ON CONFLICT (issuer, person) DO UPDATE SET approval_key = excluded.approval_key, at_ms = excluded.at_ms;

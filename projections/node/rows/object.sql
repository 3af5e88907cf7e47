-- The vault's consumer may bring an older record after a newer one was kept: the newest stays, with its terms.
INSERT INTO objects (tenant, registration, uid, sequence, state, found_as, object_type, record)
VALUES (:tenant, :registration, :uid, :sequence, :state, :found_as, :object_type, :record)
ON CONFLICT (tenant, uid) DO UPDATE SET registration = excluded.registration, sequence = excluded.sequence,
    state = excluded.state, found_as = excluded.found_as, object_type = excluded.object_type, record = excluded.record
WHERE excluded.sequence > objects.sequence;
DELETE FROM object_terms WHERE tenant = :tenant AND uid = :uid
    AND EXISTS (SELECT 1 FROM objects WHERE tenant = :tenant AND uid = :uid AND sequence = :sequence);

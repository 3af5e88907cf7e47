-- The vault's consumer may bring an older record after a newer one was kept: the newest stays, with its names.
INSERT INTO objects (tenant, registration, uid, sequence, state, object_type, record)
VALUES (:tenant, :registration, :uid, :sequence, :state, :object_type, :record)
ON CONFLICT (tenant, uid) DO UPDATE SET registration = excluded.registration, sequence = excluded.sequence,
    state = excluded.state, object_type = excluded.object_type, record = excluded.record
WHERE excluded.sequence > objects.sequence;
DELETE FROM object_names WHERE tenant = :tenant AND uid = :uid
    AND EXISTS (SELECT 1 FROM objects WHERE tenant = :tenant AND uid = :uid AND sequence = :sequence);

INSERT INTO vault_known (subject, tenant, kind, sequence, revision, digest, data)
VALUES (:subject, :tenant, :kind, :sequence, :revision, :digest, :data)
ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, revision = excluded.revision,
    digest = excluded.digest, data = excluded.data;

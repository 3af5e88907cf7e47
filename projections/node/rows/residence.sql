INSERT INTO residence (tenant, generation, fence, verdict, lease_s, root, body)
VALUES (:tenant, :generation, :fence, :verdict, :lease_s, :root, :body)
ON CONFLICT (tenant) DO UPDATE SET generation = excluded.generation, fence = excluded.fence,
    verdict = excluded.verdict, lease_s = excluded.lease_s, root = excluded.root, body = excluded.body;

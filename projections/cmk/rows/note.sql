INSERT INTO node_note (node, region, tenant, tag, about, times, last, at_ms)
VALUES (:node, :region, :tenant, :tag, :about, 1, :data, :at_ms)
ON CONFLICT (node, tenant, tag, about) DO UPDATE SET times = times + 1, last = excluded.last, at_ms = excluded.at_ms;

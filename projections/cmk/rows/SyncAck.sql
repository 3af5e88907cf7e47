INSERT INTO node_ack (node, region, tenant, lane, epoch, floor, above, obeyed, state, lease_s, failure, boot_id,
    closed_boottime_ns, at_ms, body)
VALUES (:node, :region, :tenant, json_extract(:data, '$.lane'), json_extract(:data, '$.ledger_epoch'),
    json_extract(:data, '$.floor'), coalesce(json_extract(:data, '$.above'), '[]'),
    coalesce(json_extract(:data, '$.obeyed'), '[]'), json_extract(:data, '$.state'), json_extract(:data, '$.lease_s'),
    json_extract(:data, '$.failure'), json_extract(:data, '$.boot_id'), json_extract(:data, '$.closed_boottime_ns'),
    :at_ms, :body)
ON CONFLICT (node, tenant, lane, epoch) DO UPDATE SET region = excluded.region, floor = excluded.floor,
    above = excluded.above, obeyed = excluded.obeyed, state = excluded.state,
    lease_s = excluded.lease_s, failure = excluded.failure, boot_id = excluded.boot_id,
    closed_boottime_ns = excluded.closed_boottime_ns, at_ms = excluded.at_ms, body = excluded.body
WHERE excluded.floor > floor OR (excluded.floor = floor
    AND (excluded.above, excluded.obeyed, excluded.state, excluded.lease_s, excluded.failure)
    IS NOT (above, obeyed, state, lease_s, failure)); -- said again it is the same promise: when it was made stays

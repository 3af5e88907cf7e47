INSERT OR IGNORE INTO approval (tenant, approval, command, region, arguments, statement, proposer, fence_seen,
    expires_at_ms, state, at_ms)
VALUES (:tenant, :aggregate, :its_command, :its_region,
    json_extract(:data, '$.arguments'), :its_statement, json_extract(:data, '$.proposer.person'),
    :its_fence_seen, :its_expires_at_ms, 'Requested', :at_ms);

INSERT OR IGNORE INTO approval (tenant, approval, command, region, arguments, statement, proposer, fence_seen,
    expires_at_ms, state, at_ms)
VALUES (:tenant, :aggregate, json_extract(:data, '$.command'), json_extract(:data, '$.region'),
    json_extract(:data, '$.arguments'), json_extract(:data, '$.statement'), json_extract(:data, '$.proposer.person'),
    json_extract(:data, '$.fence_seen'), json_extract(:data, '$.expires_at_ms'), 'Requested', :at_ms);

INSERT OR IGNORE INTO revocation_confirmed (tenant, region, event, outcome, nodes, at_ms)
VALUES (:tenant, :region, :its_revocation, :its_outcome,
    json_extract(:data, '$.nodes'), :at_ms);

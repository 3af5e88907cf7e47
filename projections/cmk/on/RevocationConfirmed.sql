INSERT OR IGNORE INTO revocation_confirmed (tenant, region, event, outcome, nodes, at_ms)
VALUES (:tenant, :region, json_extract(:data, '$.revocation'), json_extract(:data, '$.outcome'),
    json_extract(:data, '$.nodes'), :at_ms);

INSERT OR IGNORE INTO destruction (event, tenant, region, approvers_version, body)
VALUES (:id, :tenant, :region, json_extract(:data, '$.approvers_version'), :data);

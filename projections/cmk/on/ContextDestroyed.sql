INSERT OR IGNORE INTO destruction (event, tenant, region, approvers_version, body)
VALUES (:id, :tenant, :region, :its_approvers_version, :data);

INSERT OR IGNORE INTO revocation (event, tenant, region, epoch, fence, reason, person, at_ms)
VALUES (:id, :tenant, :region, :epoch, :counter, :its_reason, :person, :at_ms);

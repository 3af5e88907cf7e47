INSERT OR REPLACE INTO suspension (tenant, region, reason)
VALUES (:tenant, :region, :its_reason);

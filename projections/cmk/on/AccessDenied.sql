INSERT INTO access_denied (sequence, person, action, reason, tenant, region, at_ms)
VALUES (:sequence, :its_person, :its_action, :its_reason,
    :its_tenant, :its_region, :at_ms);

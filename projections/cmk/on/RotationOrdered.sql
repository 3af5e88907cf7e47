INSERT OR IGNORE INTO rotation (tenant, region, rotation, level, registration, at_ms)
VALUES (:tenant, :region, :its_rotation, :its_level,
    :its_registration, :at_ms);

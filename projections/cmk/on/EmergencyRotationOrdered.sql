INSERT INTO emergency_floor (tenant, region, level, registration, below)
VALUES (:tenant, :region, :its_level, coalesce(:its_registration, ''),
    :its_below)
ON CONFLICT (tenant, region, level, registration) DO UPDATE SET below = max(below, excluded.below);

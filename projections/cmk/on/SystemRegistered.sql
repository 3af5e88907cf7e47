INSERT OR IGNORE INTO registered_system (tenant, region, registration, system, generation, hand_out)
VALUES (:tenant, :region, :its_registration, :its_system, :counter,
    :its_hand_out);

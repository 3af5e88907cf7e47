INSERT OR IGNORE INTO object_names (tenant, registration, uid, name) VALUES (:tenant, :registration, :uid, :name);

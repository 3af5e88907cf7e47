INSERT INTO outbox (id, place, tenant, body) VALUES (:id, :place, :tenant, :body);

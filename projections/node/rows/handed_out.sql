INSERT INTO handed_out (tenant, registration, workload, object_id, wrapped, times, first_ms, last_ms)
VALUES (:tenant, :registration, :workload, :object_id, :wrapped, :times, :first_ms, :last_ms)
ON CONFLICT (tenant, registration, workload, object_id, wrapped) DO UPDATE SET times = excluded.times,
    last_ms = excluded.last_ms;

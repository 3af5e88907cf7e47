-- Of a report that was counted before, nothing is added. Number 0: a report of a time when they had none.
INSERT INTO handed_out (node, region, tenant, registration, workload, form, times, first_ms, last_ms)
SELECT :node, :region, :tenant, :registration, :workload, :form, :times, :first_ms, :last_ms
WHERE :number = 0 OR :number > coalesce((
    SELECT number FROM counted_series WHERE node = :node AND tenant = :tenant AND kind = :kind AND series = :series
), 0)
ON CONFLICT (node, tenant, registration, workload, form) DO UPDATE SET times = times + excluded.times,
    first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms);

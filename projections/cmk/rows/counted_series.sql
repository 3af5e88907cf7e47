-- After the rows of the report with this number.
INSERT INTO counted_series (node, tenant, kind, series, number, missing)
SELECT :node, :tenant, :kind, :series, :number, :number - 1 WHERE :number > 0
ON CONFLICT (node, tenant, kind, series) DO UPDATE SET missing = missing + excluded.number - number - 1,
    number = excluded.number WHERE excluded.number > number;

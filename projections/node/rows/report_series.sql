INSERT INTO report_series (tenant, kind, series, number) VALUES (:tenant, :kind, :series, :number)
ON CONFLICT (tenant, kind) DO UPDATE SET number = excluded.number;

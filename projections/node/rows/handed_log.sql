INSERT INTO handed_log (name, number) VALUES (:name, :number)
ON CONFLICT (name) DO UPDATE SET number = excluded.number;

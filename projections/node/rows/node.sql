INSERT INTO node (one, cursor_routine, cursor_critical, body) VALUES (1, :cursor_routine, :cursor_critical, :body)
ON CONFLICT (one) DO UPDATE SET cursor_routine = excluded.cursor_routine,
    cursor_critical = excluded.cursor_critical, body = excluded.body;

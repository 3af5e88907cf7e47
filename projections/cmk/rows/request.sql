DELETE FROM request WHERE at_ms < :forget_before_ms;
INSERT INTO request (actor, method, path, key, body_hash, status, answer, at_ms)
VALUES (:actor, :method, :path, :key, :body_hash, :status, :answer, :at_ms)
ON CONFLICT (actor, method, path, key) DO UPDATE SET status = excluded.status, answer = excluded.answer;

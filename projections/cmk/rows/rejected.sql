INSERT INTO rejected (sequence, subject, reason) VALUES (:sequence, :subject, :reason);

DELETE FROM session WHERE expires_s <= :begun_s;
INSERT INTO session (cookie, issuer, person, auth_time_s, begun_s, expires_s)
VALUES (:cookie, :issuer, :person, :auth_time_s, :begun_s, :expires_s);

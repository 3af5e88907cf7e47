DELETE FROM session WHERE issuer = :issuer AND person = :person;

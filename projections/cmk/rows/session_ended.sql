DELETE FROM session WHERE cookie = :cookie;

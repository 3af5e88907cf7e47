-- A residence is destroyed: nothing of its objects stays (secure_delete overwrites the pages).
DELETE FROM object_terms WHERE tenant = :tenant;
DELETE FROM objects WHERE tenant = :tenant;

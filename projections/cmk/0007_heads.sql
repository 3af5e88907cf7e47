-- The rolling hash over each region's critical decrees, as nodes keep it: what a beat names as the head. `_` is that of a
-- region in which nothing has happened yet: the trust events alone.
CREATE TABLE critical_head (
    region TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

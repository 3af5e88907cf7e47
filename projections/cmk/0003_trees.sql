-- The ledger's Merkle trees: one a region and one for `global`, anew in every epoch. `edge` is all that appending needs.
CREATE TABLE tree (
    tree TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    edge BLOB NOT NULL,
    PRIMARY KEY (tree, epoch)
) STRICT;

-- Their hashes, 256 a row: level 0 holds leaves, a level above the roots of full rows below (c2sp.org/tlog-tiles, height
-- 8). So a proof for any older size reads a handful of rows. `sequences` says where each leaf of a level-0 row stands.
CREATE TABLE tile (
    tree TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    sequences BLOB NOT NULL,
    PRIMARY KEY (tree, epoch, level, number)
) STRICT;
CREATE INDEX tile_by_sequence ON tile (tree, epoch, level, first_sequence);

-- The region's Merkle tree as this node computes it from its mirror: its edge, our place, the newest checkpoint agreed.
CREATE TABLE mirror_tree (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Whether KMIP Get gives a system's keys away; null: as the residence. The stricter of the two counts.
ALTER TABLE registered_system ADD COLUMN hand_out TEXT CHECK (hand_out IN ('allowed', 'wrapped-only', 'never'));

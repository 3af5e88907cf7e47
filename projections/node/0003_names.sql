-- An object's own names are found by the object: without this, each change of an object read every name of its system.
CREATE INDEX object_names_of_object ON object_names (tenant, uid);

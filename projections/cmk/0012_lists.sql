-- What lists read by: each in its order, so that a page of it is all that is read (governance/lists.py).
CREATE INDEX destruction_of_residence ON destruction (tenant, region);
CREATE INDEX registered_system_in_order ON registered_system (tenant, region, generation, registration);
CREATE INDEX enrolled_workload_in_order ON enrolled_workload (tenant, region, generation, enrolment);
CREATE INDEX workload_authority_in_order ON workload_authority (tenant, region, generation, authority);
CREATE INDEX rotation_in_order ON rotation (tenant, region, at_ms, rotation);
CREATE INDEX revocation_in_order ON revocation (tenant, at_ms, event);
CREATE INDEX approval_in_order ON approval (tenant, at_ms, approval);
CREATE INDEX approval_open ON approval (tenant, expires_at_ms) WHERE state IN ('Requested', 'Granted');
CREATE INDEX offered_key_of_person ON offered_key (person, at_ms);

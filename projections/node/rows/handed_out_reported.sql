-- All of a tenant's are in the outbox's reports now.
DELETE FROM handed_out WHERE tenant = :tenant;

-- The vault's own records say that this one is no more.
DELETE FROM vault_known WHERE subject = :subject;

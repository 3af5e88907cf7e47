-- How many of a set's people sign stands beside who they are: the sets of before had two.
UPDATE approvers_set SET approvers = json_object('quorum', 2, 'approvers', json(approvers));
DROP VIEW signer;
-- Who can sign for a tenant, and how many do, as JSON.
CREATE VIEW signer AS
SELECT t.tenant, json_object(
    'quorum', coalesce((SELECT q.quorum FROM approval_policy AS q WHERE q.tenant = t.tenant), 2),
    'approvers', json((
        SELECT json_group_array(json_object('person', p.person, 'public_key', p.approval_key))
        FROM person AS p WHERE p.tenant = t.tenant AND p.approval_key IS NOT NULL
    ))
) AS people
FROM tenant AS t;

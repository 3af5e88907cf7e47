INSERT OR IGNORE INTO approval_grant (tenant, approval, person)
VALUES (:tenant, :aggregate, json_extract(:data, '$.approver.person'));
UPDATE approval SET state = 'Granted' WHERE tenant = :tenant AND approval = :aggregate AND state = 'Requested';

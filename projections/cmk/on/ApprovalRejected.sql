UPDATE approval SET state = 'Rejected', reason = json_extract(:data, '$.person')
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

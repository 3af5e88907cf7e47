UPDATE approval SET state = 'Executed', event = json_extract(:data, '$.event')
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

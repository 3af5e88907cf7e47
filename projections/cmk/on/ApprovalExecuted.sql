UPDATE approval SET state = 'Executed', event = :its_event
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

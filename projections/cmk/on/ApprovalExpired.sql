UPDATE approval SET state = 'Expired'
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

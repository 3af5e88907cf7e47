UPDATE approval SET state = 'Withdrawn', reason = :its_reason
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

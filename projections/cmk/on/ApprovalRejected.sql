UPDATE approval SET state = 'Rejected', reason = :its_person
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

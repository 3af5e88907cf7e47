UPDATE approval SET state = 'Withdrawn', reason = json_extract(:data, '$.reason')
WHERE tenant = :tenant AND approval = :aggregate AND state IN ('Requested', 'Granted');

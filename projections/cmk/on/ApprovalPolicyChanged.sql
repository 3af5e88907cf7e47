-- ApprovalPolicyChanged
INSERT INTO approval_policy (tenant, quorum) VALUES (:tenant, json_extract(:data, '$.quorum'))
ON CONFLICT (tenant) DO UPDATE SET quorum = excluded.quorum;

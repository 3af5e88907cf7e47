-- ApprovalPolicyChanged
INSERT INTO agreed (sequence, tenant, approval)
SELECT :sequence, :tenant, :its_approval
WHERE (:its_approval IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM agreed AS a WHERE a.tenant = :tenant AND a.approval = :its_approval
) AND signed('ApprovalPolicyChanged.1', :tenant, 'global', :data, (SELECT s.people FROM signer AS s WHERE s.tenant = :tenant)) = 1);
INSERT INTO approval_policy (tenant, quorum)
SELECT :tenant, :its_quorum
WHERE EXISTS (SELECT 1 FROM agreed AS a WHERE a.sequence = :sequence)
ON CONFLICT (tenant) DO UPDATE SET quorum = excluded.quorum;

INSERT OR IGNORE INTO enrolled_workload (tenant, region, enrolment, workload, system, registration, fingerprint,
    spiffe, authority, generation)
SELECT :tenant, :region, :its_enrolment, :its_workload,
    :its_system, :its_registration, :its_fingerprint,
    :its_spiffe, :its_authority, :counter
WHERE :its_authority IS NULL OR EXISTS (
    SELECT 1 FROM workload_authority AS a
    WHERE a.tenant = :tenant AND a.region = :region AND a.authority = :its_authority
);

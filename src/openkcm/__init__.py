"""OpenKCM: sovereign key management. Two planes, one ledger; see README.md."""

"""Audit: replays and verifies the ledger. Needs the ledger and public keys, nothing else."""

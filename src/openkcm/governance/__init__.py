"""Governance: who owns what. Knows references, never keys; imports no cipher, no KMS, no KMIP."""

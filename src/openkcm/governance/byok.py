"""Bringing one's own key (BYOK): what the customer's tool asks its own KMS for, and how it wraps the material. Pure.

Governance has no KMS client, and nodes may wrap, unwrap and describe, nothing else: the wrapping key and the import
token go from the customer's KMS straight to the customer's own tool (ADR 0038). What is told here is what the two must
agree on, so that a node can use the key afterwards.
"""

from __future__ import annotations

from typing import Final

import msgspec

from openkcm.contract.decrees import RootReference

__all__ = ["RULES", "ImportRule", "parameters"]


class ImportRule(msgspec.Struct, frozen=True, kw_only=True):
    """How one provider takes key material in.

    Attributes:
        key: What the key must be made as, before the import.
        material: What is brought.
        wrapping_key: The provider's public key that the material is wrapped for.
        wrappings: The provider's names of the algorithms, the one to prefer first.
        parameters_from, import_by: Calls of the provider's own API, with the customer's administrator's credential.
        token_hours: How long wrapping key and token are good; None: as long as the job or key lives.
        command: Ready to run at the customer's side; `{ref}` is the key.
    """

    key: str
    material: str
    wrapping_key: str
    wrappings: tuple[str, ...]
    parameters_from: str
    import_by: str
    token_hours: int | None
    command: str


RULES: Final[dict[str, ImportRule]] = {
    "aws": ImportRule(
        key="SYMMETRIC_DEFAULT, Origin EXTERNAL", material="32 bytes", wrapping_key="RSA_4096",
        wrappings=("RSA_AES_KEY_WRAP_SHA_256", "RSAES_OAEP_SHA_256"), parameters_from="kms:GetParametersForImport",
        import_by="kms:ImportKeyMaterial", token_hours=24,
        command="openkcm root import aws {ref} --material l1.bin --wrapping aes-kwp",
    ),
    "azure": ImportRule(
        key="RSA-HSM, made by the import itself", material="an RSA private key in PEM",
        wrapping_key="RSA-HSM of 4096 bits with the operation import alone", wrappings=("CKM_RSA_AES_KEY_WRAP",),
        parameters_from="GET of that key exchange key", import_by="PUT of the key as a transfer blob", token_hours=None,
        command="openkcm root import azure {ref} --kek KEK --material l1.pem",
    ),
    "gcp": ImportRule(
        key="ENCRYPT_DECRYPT, import only, protection HSM", material="32 bytes",
        wrapping_key="of an import job", wrappings=("RSA_OAEP_3072_SHA256_AES_256",),
        parameters_from="importJobs.get", import_by="cryptoKeyVersions.import", token_hours=72,
        command="openkcm root import gcp {ref} --import-job JOB --material l1.bin",
    ),
}  # fmt: skip


def parameters(root: RootReference) -> dict[str, object] | None:
    """Return what to agree on for one key; None where the provider imports nothing."""
    rule = RULES.get(root.provider)
    if rule is None:
        return None
    told = msgspec.structs.asdict(rule)
    told["command"] = rule.command.format(ref=root.ref)
    return {"provider": root.provider, "ref": root.ref, **told}

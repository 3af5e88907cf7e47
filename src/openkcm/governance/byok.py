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
        wrapping_key: The provider's public key that the material is wrapped for.
        wrappings: The provider's names of the algorithms, the one to prefer first.
        parameters_from, import_by: Calls of the provider's own API, with the customer's administrator's credential.
        token_hours: How long wrapping key and token are good; None: as long as the job or key lives.
        command: Ready to run at the customer's side; `{ref}` is the key.
    """

    key: str
    wrapping_key: str
    wrappings: tuple[str, ...]
    parameters_from: str
    import_by: str
    token_hours: int | None
    command: str


MATERIAL_BYTES: Final = 32
RULES: Final[dict[str, ImportRule]] = {
    "aws": ImportRule(
        key="SYMMETRIC_DEFAULT, Origin EXTERNAL", wrapping_key="RSA_4096",
        wrappings=("RSA_AES_KEY_WRAP_SHA_256", "RSAES_OAEP_SHA_256"), parameters_from="kms:GetParametersForImport",
        import_by="kms:ImportKeyMaterial", token_hours=24,
        command="openkcm root import aws {ref} --material l1.bin --wrapping aes-kwp",
    ),
    "azure": ImportRule(
        key="oct-HSM of 256 bits, in a Managed HSM",
        wrapping_key="RSA-HSM of 4096 bits with the operation import alone",
        wrappings=("CKM_RSA_AES_KEY_WRAP",), parameters_from="az keyvault key download, of that key exchange key",
        import_by="az keyvault key import --byok-file", token_hours=None,
        command="az keyvault key import --byok-file transfer.byok --kty oct-HSM --ops wrapKey unwrapKey --id {ref}",
    ),
    "gcp": ImportRule(
        key="ENCRYPT_DECRYPT, import only, protection HSM", wrapping_key="of an import job",
        wrappings=("rsa-oaep-4096-sha256-aes-256", "rsa-oaep-4096-sha256"),
        parameters_from="gcloud kms import-jobs create", import_by="gcloud kms keys versions import", token_hours=72,
        command="gcloud kms keys versions import --key {ref} --import-job JOB --target-key-file l1.bin "
        "--algorithm google-symmetric-encryption",
    ),
}  # fmt: skip


def parameters(root: RootReference) -> dict[str, object] | None:
    """Return what to agree on for one key; None where the provider imports nothing."""
    rule = RULES.get(root.provider)
    if rule is None:
        return None
    told = msgspec.structs.asdict(rule)
    told["command"] = rule.command.format(ref=root.ref)
    return {"provider": root.provider, "ref": root.ref, "material_bytes": MATERIAL_BYTES, **told}

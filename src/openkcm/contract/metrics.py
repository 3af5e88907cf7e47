"""Every figure that a process shows, and the text form it is scraped in. Pure: a table and two functions.

A figure that is not in `CATALOGUE` cannot be shown; docs/operations/metrics.md is written from it. Source of the text
form: Prometheus text exposition format 0.0.4. No figure carries a name of a person, a key or an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["CATALOGUE", "Metric", "figure", "manual", "render"]


class Metric(NamedTuple):
    """One row of the table: who shows it, of what kind it is, its labels, what it says (with the unit)."""

    shown_by: Literal["node", "cmk"]
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    says: str


# fmt: off
CATALOGUE: Final[dict[str, Metric]] = {
    "openkcm_node_cursor":             Metric("node", "gauge", ("lane",), "Ledger sequence up to which this node has committed a lane."),
    "openkcm_node_workers":            Metric("node", "gauge", (), "KMIP workers that live."),
    "openkcm_node_memory_locked":      Metric("node", "gauge", ("mode", "sealed"), "1 under the mode of the key memory in force."),
    "openkcm_node_key_slots":          Metric("node", "gauge", ("state",), "Key slots: `all`, and `free` (`limits.key_slots`)."),
    "openkcm_node_residences_cold":    Metric("node", "gauge", (), "Residences whose keys are not in memory; their next use unseals them."),
    "openkcm_node_residences_evicted_total": Metric("node", "counter", (), "Residences that gave way to others because every key slot was taken."),
    "openkcm_node_beat_age_seconds":   Metric("node", "gauge", (), "Seconds since the nonce that governance last echoed was sent; +Inf before the first."),
    "openkcm_node_behind_mark":        Metric("node", "gauge", (), "1 while the mirrors hold less than this node has committed: nothing is enabled."),
    "openkcm_node_messages_dropped_total": Metric("node", "counter", ("reason",), "Messages that were not what they claimed."),
    "openkcm_node_alarms_total":       Metric("node", "counter", ("alarm",), "Alarms raised, by kind; `detail` in the log."),
    "openkcm_node_certificate_seconds": Metric("node", "gauge", ("certificate",), "Seconds until one of this node's certificates, a CA behind it, or its NATS server's certificate expires; negative afterwards."),
    "openkcm_node_vault_superseded": Metric("node", "gauge", (), "Older revisions in the region's vault, not erased yet: disk, and Destroy's time where one object has many."),
    "openkcm_node_vault_refused_total": Metric("node", "counter", (), "Vault records whose seal or context did not hold."),
    "openkcm_node_residence":          Metric("node", "gauge", ("tenant", "state"), "1 under the state in which the node holds a tenant."),
    "openkcm_node_lease_left_seconds": Metric("node", "gauge", ("tenant",), "Seconds this node may go on serving a tenant without governance."),
    "openkcm_node_root_refused":       Metric("node", "gauge", ("tenant", "code"), "1 while the customer's own KMS refuses this node."),
    "openkcm_kmip_operation_seconds":  Metric("node", "histogram", (), "Duration of KMIP operations, from parsing to the encoded answer."),
    "openkcm_kmip_events_total":       Metric("node", "counter", ("what",), "What KMIP workers count: connections, refusals, keys handed out, connections by a certificate that ends within seven days."),
    "openkcm_cmk_ledger_sequence":     Metric("cmk", "gauge", (), "Ledger sequence up to which this CMK has read."),
    "openkcm_cmk_ledger_epoch":        Metric("cmk", "gauge", (), "The ledger's epoch."),
    "openkcm_cmk_connected":           Metric("cmk", "gauge", (), "1 while this CMK has its hub."),
    "openkcm_cmk_certificate_seconds": Metric("cmk", "gauge", ("certificate",), "Seconds until one of this CMK's certificates, the CA behind it, or the hub's certificate expires; negative afterwards."),
    "openkcm_cmk_revocations_spooled": Metric("cmk", "gauge", (), "Revocations that are recorded here and not yet in the ledger."),
    "openkcm_cmk_revocations_open":    Metric("cmk", "gauge", ("status",), "Revocations that nobody lifted, by what the nodes say of them."),
    "openkcm_cmk_revocation_wait_seconds": Metric("cmk", "gauge", (), "Age of the oldest revocation that a node has not acknowledged; 0 when there is none."),
    "openkcm_cmk_node_seen_seconds":   Metric("cmk", "gauge", ("region", "node"), "Seconds since an enrolled node's last sign of life; +Inf when there was none."),
    "openkcm_cmk_node_lag_events":     Metric("cmk", "gauge", ("region", "node", "lane"), "Events in the ledger that a node has not committed."),
    "openkcm_cmk_node_alarm":          Metric("cmk", "gauge", ("region", "node", "alarm"), "1 for each alarm that a node's last HealthCheck names."),
    "openkcm_cmk_node_vault_differs": Metric("cmk", "gauge", ("region", "node"), "Nodes of the region that read another vault up to the same place."),
    "openkcm_cmk_node_differs":       Metric("cmk", "gauge", ("region", "node"), "Tenants that a node holds otherwise than the ledger says, at the same counters or standing still."),
    "openkcm_cmk_node_certificate_seconds": Metric("cmk", "gauge", ("region", "node", "certificate"), "Seconds until a certificate of a node expires, by its last HealthCheck; negative afterwards."),
    "openkcm_cmk_drift_found_total":   Metric("cmk", "counter", (), "Tenants that a node was found to hold otherwise than the ledger says."),
    "openkcm_cmk_drift_healed_total":  Metric("cmk", "counter", (), "Of those, how many agree again."),
    "openkcm_cmk_reports_dropped_total": Metric("cmk", "counter", (), "Reports and signs of life that no enrolled node sealed."),
    "openkcm_cmk_refused_total":       Metric("cmk", "counter", ("why",), "Requests and connections that the portal's door turned away: over an identity's budget, strangers, busy, too many connections, too slow or too long."),
    "openkcm_cmk_beats_sent_total":    Metric("cmk", "counter", (), "Beats sent to regions."),
}
# fmt: on


def figure(name: str, **labels: object) -> str:
    """Return a figure's name with its labels, as `render` takes it.

    Raises:
        KeyError: No such figure.
        ValueError: Other labels than the catalogue's.
    """
    metric = CATALOGUE[name]
    if tuple(labels) != metric.labels:
        raise ValueError(f"{name} has the labels {metric.labels}, not {tuple(labels)}")
    return name + (f"{{{_labelled(labels)}}}" if labels else "")


def render(figures: Mapping[str, float]) -> str:
    """Return figures as a scrape reads them. Histograms bring their own `_bucket`, `_sum` and `_count`.

    Raises:
        KeyError: A figure that is not in the catalogue.
    """
    families: dict[str, list[str]] = {}
    for name, value in figures.items():
        families.setdefault(_family(name), []).append(f"{name} {_number(value)}\n")
    lines = []
    for family in sorted(families):
        metric = CATALOGUE[family]
        lines += [f"# HELP {family} {metric.says}\n", f"# TYPE {family} {metric.kind}\n", *families[family]]
    return "".join(lines)


def manual() -> str:
    """Return the catalogue as a page of documentation (Markdown)."""
    lines = [
        "# Figures\n",
        "\nEach node and each CMK shows its figures under `/metrics`, on loopback, as Prometheus reads them.\n",
        "\n| Figure | Kind | Labels | Says |\n| --- | --- | --- | --- |\n",
    ]
    for name, metric in CATALOGUE.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.says} |\n")
    return "".join(lines)


def _family(name: str) -> str:
    bare = name.partition("{")[0]
    for suffix in ("_bucket", "_sum", "_count"):
        family = bare.removesuffix(suffix)
        if family != bare and family in CATALOGUE and CATALOGUE[family].kind == "histogram":
            return family
    if bare not in CATALOGUE:
        raise KeyError(f"{bare} is not in the catalogue of figures")
    return bare


def _labelled(labels: Mapping[str, object]) -> str:
    """Escape as the text form asks: backslash, quote, line feed."""
    escaped = {k: str(v).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return ",".join(f'{k}="{v}"' for k, v in escaped.items())


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))

"""Who may say and hear what on the bus: one table, and the server includes that follow it. Pure: opens nothing.

`RULES` gives each role its subjects; `CROSSINGS` is all that passes between accounts. nats.conf and
nodes/<region>/leaf.conf include the files that `hub_includes` and `leaf_includes` render from the two; nothing else
grants anything.

The hub has four kinds of account: LEDGER (governance alone), REPORTS (what nodes say; apart from the ledger because a
server writes answers, acknowledgements and flow control onto subjects that a message names), AUDIT (a mirror), and one
without JetStream for each region, which that region's leaf server joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from openkcm.contract.fleet import RegionConfiguration

__all__ = [
    "ACCOUNT_OF",
    "CROSSINGS",
    "RULES",
    "account_of_region",
    "allowed",
    "hub_includes",
    "leaf_includes",
    "users_of_hub",
    "users_of_leaf",
]

Verb = Literal["publish", "subscribe"]
Kind = Literal["service", "stream"]
LEDGER: Final = "LEDGER"
REPORTS: Final = "REPORTS"
AUDIT: Final = "AUDIT"
REGION: Final = "REGION"  # stands for the account of each region


class Rule(NamedTuple):
    """One line of the table: `role` may `verb` on `subject` ({region}, {node} are the role's own)."""

    role: str
    verb: Verb
    subject: str


class Crossing(NamedTuple):
    """`subject` of the account `owner` is served to (service) or heard by (stream) `taker`, there named `local`."""

    kind: Kind
    subject: str
    owner: str
    taker: str
    local: str | None = None


ACCOUNT_OF: Final[dict[str, str]] = {
    "ledger-admin": LEDGER,
    "trust": LEDGER,
    "cmk": LEDGER,
    "reports-admin": REPORTS,
    "audit-admin": AUDIT,
    "auditor": AUDIT,
    "leaf-{region}": REGION,  # the region's leaf server, on the hub
    "{region}-admin": REGION,  # on the leaf
    "{region}-auditor": REGION,  # on the leaf
    "{node}": REGION,  # on the leaf
}


def _rules(role: str, verb: Verb, *subjects: str) -> tuple[Rule, ...]:
    return tuple(Rule(role, verb, subject) for subject in subjects)


# fmt: off
RULES: Final[tuple[Rule, ...]] = (
    *(Rule(role, "publish", subject)
      for role in ("ledger-admin", "reports-admin", "audit-admin", "{region}-admin")
      for subject in ("$JS.API.STREAM.>", "$JS.API.CONSUMER.>", "$JS.API.INFO")),
    *_rules("{region}-admin", "publish",  # to have a mirror fed from its start
        "$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-{region}",
        "$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-critical-{region}"),
    *(Rule(role, "subscribe", f"_INBOX.{role}.>") for role in ACCOUNT_OF if role != "leaf-{region}"),
    # The offline trust root: its four kinds of decree; it reads what is there before it adds what is missing.
    *_rules("trust", "publish",
        "kcm.decree.global._.>", "$JS.API.DIRECT.GET.LEDGER", "$JS.API.DIRECT.GET.LEDGER.kcm.decree.global._.>"),
    # Governance: no stream or consumer can be created, changed, purged or deleted by it.
    *_rules("cmk", "publish",
        "kcm.decree.>", "kcm.lane0.>", "kcm.beat.*",
        "$JS.API.DIRECT.GET.LEDGER", "$JS.API.DIRECT.GET.LEDGER.>", "$JS.API.STREAM.MSG.GET.LEDGER",
        "$JS.API.STREAM.INFO.LEDGER", "$JS.API.CONSUMER.INFO.LEDGER.*",
        "kcm.checkpoint.*", "$JS.API.STREAM.MSG.GET.CHECKPOINTS", "$JS.API.STREAM.INFO.CHECKPOINTS",
        "kcm.cosignature.*.*", "$JS.API.DIRECT.GET.COSIGNATURES", "$JS.API.STREAM.INFO.COSIGNATURES",
        "$JS.reports.API.DIRECT.GET.REPORTS",
        "$JS.reports.API.STREAM.INFO.REPORTS", "$JS.reports.API.STREAM.INFO.HEALTH"),
    *_rules("cmk", "subscribe", "kcm.decree.>", "kcm.report.*.*._.health-check", "kcm.report.*.*.*.sync-ack",
        "kcm.reported.>"),
    # The auditor: reads the mirror in an account of its own.
    *_rules("auditor", "publish",
        "$JS.API.DIRECT.GET.LEDGER", "$JS.API.DIRECT.GET.LEDGER.>", "$JS.API.STREAM.MSG.GET.LEDGER",
        "$JS.API.STREAM.INFO.LEDGER",
        "$JS.ledger.API.DIRECT.GET.CHECKPOINTS", "$JS.ledger.API.DIRECT.GET.COSIGNATURES"),
    # The auditor of a region: what keys were used for, which no hub has; nothing of vault or mirrors.
    *_rules("{region}-auditor", "publish", "$JS.API.DIRECT.GET.USAGE", "$JS.API.STREAM.INFO.USAGE"),
    # A node: its own four consumers, its own reports, its region's vault; single messages of its mirrors, to read a
    # residence again; and nothing that names a consumer's filter.
    *(Rule("{node}", "publish", subject.format(consumer=consumer, node="{node}"))
      for consumer in ("LEDGER.{node}-routine", "LEDGER.{node}-tree", "LEDGER-CRITICAL.{node}-critical",
                       "VAULT.{node}-vault")
      for subject in ("$JS.API.CONSUMER.MSG.NEXT.{consumer}", "$JS.API.CONSUMER.RESET.{consumer}",
                      "$JS.API.CONSUMER.INFO.{consumer}", "$JS.ACK.{consumer}.>")),
    *_rules("{node}", "publish",
        "$JS.API.STREAM.INFO.LEDGER", "$JS.API.STREAM.INFO.LEDGER-CRITICAL",
        "$JS.API.STREAM.INFO.VAULT", "$JS.API.STREAM.INFO.REPORTS-OUT", "$JS.API.STREAM.INFO.USAGE",
        "$JS.API.CONSUMER.INFO.REPORTS-OUT.hub-{region}",
        "$JS.API.STREAM.MSG.GET.LEDGER", "$JS.API.STREAM.MSG.GET.LEDGER-CRITICAL",
        "$JS.API.STREAM.MSG.GET.VAULT", "$JS.API.STREAM.MSG.DELETE.VAULT",
        "kcm.report.{region}.{node}.>", "kcm.vault.{region}.>"),
    *_rules("{node}", "subscribe", "kcm.lane0.{region}.>", "kcm.lane0.global._.>", "kcm.beat.{region}",
        "kcm.noted.{region}"),
)

CROSSINGS: Final[tuple[Crossing, ...]] = (
    # Down: two mirrors by the hub's own consumers, which a region may RESET and nothing else; the fast lane; the beat;
    # the checkpoints of the region's own tree.
    *(crossing
      for name in ("mirror", "mirror-critical")
      for crossing in (
        Crossing("service", f"$JS.API.CONSUMER.RESET.LEDGER.{name}-{{region}}", LEDGER, REGION,
                 f"$JS.ledger.API.CONSUMER.RESET.LEDGER.{name}-{{region}}"),
        Crossing("service", f"$JS.FC.LEDGER.{name}-{{region}}.>", LEDGER, REGION),
        Crossing("stream", f"kcm.{name}.{{region}}", LEDGER, REGION))),
    Crossing("stream", "kcm.lane0.{region}.>", LEDGER, REGION),
    Crossing("stream", "kcm.lane0.global._.>", LEDGER, REGION),
    Crossing("stream", "kcm.beat.{region}", LEDGER, REGION),
    Crossing("stream", "kcm.noted.{region}", LEDGER, REGION),
    # The auditor's mirror.
    Crossing("service", "$JS.API.CONSUMER.RESET.LEDGER.mirror-audit", LEDGER, AUDIT,
             "$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-audit"),
    Crossing("service", "$JS.FC.LEDGER.mirror-audit.>", LEDGER, AUDIT),
    Crossing("stream", "kcm.mirror.audit", LEDGER, AUDIT),
    # What was signed of the ledger, which an auditor compares with the mirror.
    *(Crossing("service", f"$JS.API.DIRECT.GET.{name}", LEDGER, AUDIT, f"$JS.ledger.API.DIRECT.GET.{name}")
      for name in ("CHECKPOINTS", "COSIGNATURES")),
    # Up: what nodes report is sourced into REPORTS; health is heard by governance at once and kept in REPORTS' account.
    # Acknowledgements are heard at once, too: after a restart of the hub sourcing rests for some seconds.
    Crossing("service", "$JS.{region}.API.CONSUMER.RESET.REPORTS-OUT.hub-{region}", REGION, REPORTS),
    Crossing("service", "$JS.FC.REPORTS-OUT.hub-{region}.>", REGION, REPORTS),
    Crossing("stream", "kcm.upstream.{region}", REGION, REPORTS),
    Crossing("stream", "kcm.report.{region}.*._.health-check", REGION, REPORTS),
    Crossing("stream", "kcm.report.{region}.*._.health-check", REGION, LEDGER),
    Crossing("stream", "kcm.report.{region}.*.*.sync-ack", REGION, LEDGER),
    # Governance reads the reports without being in their account.
    Crossing("service", "$JS.API.DIRECT.GET.REPORTS", REPORTS, LEDGER, "$JS.reports.API.DIRECT.GET.REPORTS"),
    Crossing("service", "$JS.API.STREAM.INFO.REPORTS", REPORTS, LEDGER, "$JS.reports.API.STREAM.INFO.REPORTS"),
    Crossing("service", "$JS.API.STREAM.INFO.HEALTH", REPORTS, LEDGER, "$JS.reports.API.STREAM.INFO.HEALTH"),
    Crossing("stream", "kcm.reported.>", REPORTS, LEDGER),
)
# fmt: on
#: Names of regions that would collide with the bus's own accounts, domains and consumers.
RESERVED_REGIONS: Final = frozenset({"hub", "ledger", "reports", "audit", "global"})


def account_of_region(region: str) -> str:
    """Return the account of a region.

    Raises:
        ValueError: The name is taken by the bus itself.
    """
    if region in RESERVED_REGIONS or region.startswith("critical-"):
        raise ValueError(f"a region cannot be called {region!r}: the bus uses that name")
    return "REGION_" + region.upper().replace("-", "_")


def allowed(role: str, verb: Verb, *, region: str = "", node: str = "") -> list[str]:
    """Return the subjects on which `role` may `verb`, in the table's order."""
    return [_fill(rule.subject, region, node) for rule in RULES if rule.role == role and rule.verb == verb]


def users_of_hub(regions: Iterable[RegionConfiguration]) -> list[str]:
    """Return the names of all users of the hub."""
    fixed = [role for role in ACCOUNT_OF if "{" not in role]
    return [*fixed, *(f"leaf-{region.region}" for region in regions)]


def users_of_leaf(region: RegionConfiguration) -> list[str]:
    """Return the names of all users of a region's leaf."""
    return [f"{region.region}-admin", f"{region.region}-auditor", *region.nodes]


def hub_includes(regions: Iterable[RegionConfiguration], keys: Mapping[str, str]) -> dict[str, str]:
    """Return the hub's included files by name. `keys`: public nkey of each user of the hub."""
    fleet = list(regions)
    names = [region.region for region in fleet]
    files = {
        f"{account.lower()}.conf": _block(account, _fixed_users(account, keys), names)
        for account in (LEDGER, REPORTS, AUDIT)
    }
    files["regions.conf"] = "".join(
        f"{account_of_region(name)}: {{\n" + _block(REGION, [_leaf_user(name, keys)], [name], indent="  ") + "}\n"
        for name in names
    )
    return files


def leaf_includes(region: RegionConfiguration, keys: Mapping[str, str]) -> dict[str, str]:
    """Return a leaf's included files by name. `keys`: public nkey of each user of that leaf."""
    staff = {role: _fill(role, region.region) for role in ("{region}-admin", "{region}-auditor")}
    users = [_user(name, keys[name], role, region.region) for role, name in staff.items()]
    users += [_user(node, keys[node], "{node}", region.region, node) for node in region.nodes]
    return {"users.conf": _list("users", users, "")}


def _fill(text: str, region: str = "", node: str = "") -> str:
    return text.replace("{region}", region).replace("{node}", node)


def _quoted(subjects: Iterable[str]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


def _user(name: str, key: str, role: str, region: str = "", node: str = "") -> str:
    says = [f"{verb}: {{ allow: [ {_quoted(subjects)} ] }}" if subjects else f'{verb}: {{ deny: ">" }}'
            for verb in ("publish", "subscribe")
            for subjects in [allowed(role, verb, region=region, node=node)]]  # fmt: skip
    return (
        f'{{ nkey: "{key}", allowed_connection_types: [ STANDARD ], permissions: {{ {", ".join(says)} }} }}  # {name}'
    )


def _leaf_user(region: str, keys: Mapping[str, str]) -> str:
    return f'{{ nkey: "{keys[f"leaf-{region}"]}", allowed_connection_types: [ LEAFNODE ] }}  # leaf-{region}'


def _fixed_users(account: str, keys: Mapping[str, str]) -> list[str]:
    return [_user(role, keys[role], role) for role, home in ACCOUNT_OF.items() if home == account and "{" not in role]


def _list(name: str, lines: Iterable[str], indent: str) -> str:
    body = "".join(f"{indent}  {line}\n" for line in lines)
    return f"{indent}{name}: [\n{body}{indent}]\n"


def _block(account: str, users: list[str], regions: list[str], indent: str = "") -> str:
    """An account's users, exports and imports."""
    takers: dict[tuple[Kind, str], list[str]] = {}
    imports = []
    for crossing in CROSSINGS:
        for region in regions if _regional(crossing) else [""]:
            subject = _fill(crossing.subject, region)
            if crossing.owner == account:
                takers.setdefault((crossing.kind, subject), []).append(_account(crossing.taker, region))
            if crossing.taker == account:
                local = f', to: "{_fill(crossing.local, region)}"' if crossing.local else ""
                source = f'account: {_account(crossing.owner, region)}, subject: "{subject}"'
                imports.append(f"{{ {crossing.kind}: {{ {source} }}{local} }}")
    exports = [
        f'{{ {kind}: "{subject}", accounts: [ {", ".join(accounts)} ]{_answers(kind, subject)} }}'
        for (kind, subject), accounts in takers.items()
    ]
    return _list("users", users, indent) + _list("exports", exports, indent) + _list("imports", imports, indent)


def _answers(kind: Kind, subject: str) -> str:
    """A batch is answered by many messages; flow control by none."""
    return ", response_type: stream" if kind == "service" and ".API." in subject else ""


def _regional(crossing: Crossing) -> bool:
    return REGION in (crossing.owner, crossing.taker)


def _account(name: str, region: str) -> str:
    return account_of_region(region) if name == REGION else name

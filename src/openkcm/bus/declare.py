"""Streams and consumers as streams/ declares them: create what is missing, name what differs. Deletes nothing.

A file is the body of $JS.API.STREAM.CREATE (`streams/<part>/<STREAM>.json`) or a consumer's configuration
(`streams/<part>/<STREAM>/<name>.json`) and is sent as it stands, {region} and {node} filled in; the server refuses a
field it does not know, where a client class would drop it. What a file does not say must be at the server's default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Drift, Refused
from openkcm.bus.publish import api
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.resources import ROOT

__all__ = ["PARTS", "Declared", "Part", "apply", "check", "declared", "diff", "drop_consumers"]

Part = Literal["ledger", "reports", "audit", "region"]
PARTS: Final[tuple[Part, ...]] = ("ledger", "reports", "audit", "region")
NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
API: Final = "$JS.API"
STREAM_DEFAULTS: Final[dict[str, Any]] = {
    "subjects": [],
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "duplicate_window": 120_000_000_000,
    "compression": "none",
    "retention": "limits",
    "num_replicas": 1,
    "consumer_limits": {},
}
CONSUMER_DEFAULTS: Final[dict[str, Any]] = {
    "ack_wait": 30_000_000_000,
    "max_waiting": 512,
    "num_replicas": 0,
    "replay_policy": "instant",
}
#: Set by the server itself, or (`first_seq`) by a restore; says nothing of what the stream does.
IGNORED: Final = frozenset({"metadata", "name", "first_seq"})
#: Set for good when a stream is created. An earlier one that syncs every write, where it need not any more, stays.
FIXED: Final = frozenset({"persist_mode"})


class Declared(msgspec.Struct, frozen=True):
    """One stream, or one consumer of it (`consumer` is its name then), with the body as it is sent."""

    stream: str
    consumer: str | None
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"stream {self.stream}" if self.consumer is None else f"consumer {self.stream}/{self.consumer}"


def declared(
    part: Part, regions: Sequence[RegionConfiguration], *, node: str | None = None, root: Path | None = None
) -> list[Declared]:
    """Return what a part of the bus consists of: streams first, each followed by its consumers.

    Args:
        part: `ledger`, `reports`, `audit` on the hub; `region` on a leaf.
        regions: The fleet; for `region` exactly that one.
        node: Only this node's consumers.

    Raises:
        BusError: streams/ cannot be read.
    """
    folder = (root or ROOT / "streams") / part
    found: list[Declared] = []
    try:
        for file in sorted(folder.glob("*.json")):
            region = regions[0].region if part == "region" else ""
            stream = _expanded(_filled(file.read_text(), region), regions)
            found.append(Declared(stream["name"], None, stream))
            for consumer in sorted((folder / file.stem).glob("*.json")):
                text = consumer.read_text()
                bodies = [msgspec.json.decode(_filled(text, *names)) for names in _names(text, regions, node)]
                found += [Declared(stream["name"], body["durable_name"], body) for body in bodies]
    except (OSError, msgspec.MsgspecError, KeyError) as bad:
        raise BusError(f"{folder}: {bad}") from bad
    if not found:
        raise BusError(f"{folder}: nothing is declared there")
    return found


async def diff(
    connection: Connection, wanted: Iterable[Declared], *, prefix: str = API, skip_refused: bool = False
) -> list[str]:
    """Return what differs between live and declared, a sentence each; nothing when all is as declared.

    Args:
        prefix: `$JS.reports.API` reads the account REPORTS from the ledger's.
        skip_refused: Pass over what this user may not ask about.

    Raises:
        Unavailable: No answer.
        Refused: Not permitted, unless skipped.
    """
    differences: list[str] = []
    for item in wanted:
        try:
            live = await _live(connection, item, prefix)
        except Refused:
            if not skip_refused:
                raise
            continue
        if live is None:
            differences.append(f"{item} is missing")
        else:
            differences += [f"{item}: {difference}" for difference in _differences(item, live)]
    return differences


async def check(
    connection: Connection, wanted: Iterable[Declared], *, prefix: str = API, skip_refused: bool = False
) -> None:
    """Return when live is as declared; what every process does before it serves.

    Raises:
        Drift: It is not; names each difference.
    """
    differences = await diff(connection, wanted, prefix=prefix, skip_refused=skip_refused)
    if differences:
        raise Drift(differences)


async def apply(connection: Connection, wanted: Iterable[Declared], *, update: bool = False) -> list[str]:
    """Create what is missing; with `update`, bring the rest to what is declared. Return what was done.

    An update of a stream can empty it even where purging is denied: without `update` nothing that exists is touched.

    Raises:
        Drift: Something exists that differs, and `update` was not asked for. What was missing before it is created.
        BusError: The server refuses a body.
    """
    done: list[str] = []
    drift: list[str] = []
    for item in wanted:
        live = await _live(connection, item, API)
        differences = [] if live is None else _differences(item, live)
        if live is None:
            await _send(connection, item, "CREATE")
            done.append(f"created {item}")
        elif differences and update:
            body = {key: value for key, value in item.body.items() if key not in FIXED or key in live}
            await _send(connection, msgspec.structs.replace(item, body=body), "UPDATE")
            done.append(f"updated {item}")
        else:
            drift += [f"{item}: {difference}" for difference in differences]
    if drift:
        raise Drift(drift)
    return done


async def drop_consumers(connection: Connection, items: Iterable[Declared]) -> list[str]:
    """Delete consumers of what is no longer in the fleet; streams are never touched. Return what was done.

    Raises:
        BusError: The server refuses.
    """
    done = []
    for item in items:
        if item.consumer is None:
            continue
        answer = await api(connection, f"{API}.CONSUMER.DELETE.{item.stream}.{item.consumer}", timeout_s=10)
        error = answer.get("error")
        if error is None:
            done.append(f"deleted {item}")
        elif error.get("err_code") != NO_CONSUMER:
            raise BusError(f"delete {item}: {error.get('description')}")
    return done


async def _send(connection: Connection, item: Declared, verb: Literal["CREATE", "UPDATE"]) -> None:
    if item.consumer is None:
        answer = await api(connection, f"{API}.STREAM.{verb}.{item.stream}", item.body, timeout_s=10)
    else:
        body = {"stream_name": item.stream, "config": item.body, "action": verb.lower()}
        answer = await api(connection, f"{API}.CONSUMER.CREATE.{item.stream}.{item.consumer}", body, timeout_s=10)
    if "error" in answer:
        raise BusError(f"{verb.lower()} {item}: {answer['error'].get('description')}")


async def _live(connection: Connection, item: Declared, prefix: str) -> dict[str, Any] | None:
    subject = f"{prefix}.STREAM.INFO.{item.stream}"
    if item.consumer is not None:
        subject = f"{prefix}.CONSUMER.INFO.{item.stream}.{item.consumer}"
    answer = await api(connection, subject, timeout_s=5)
    error = answer.get("error")
    if error is None:
        config: dict[str, Any] = answer["config"]
        return config
    if error.get("err_code") in (NO_STREAM, NO_CONSUMER):
        return None
    raise BusError(f"{item}: {error.get('description')}")


def _differences(item: Declared, live: dict[str, Any]) -> list[str]:
    defaults = STREAM_DEFAULTS if item.consumer is None else CONSUMER_DEFAULTS
    keys = sorted((item.body.keys() | live.keys()) - IGNORED)
    found = []
    for key in keys:
        default = defaults.get(key)
        want, have = item.body.get(key, default), live.get(key, default)
        if key in FIXED and not have:
            continue
        if _plain(want) != _plain(have) and (want or have):  # absent, null, false, 0 and empty are one to the server
            found.append(f"{key} is {have!r}, declared {want!r}")
    return found


def _plain(value: Any) -> Any:
    """Drop what is empty, so that `{"deliver": ""}` and `{}` compare equal."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner not in ("", None, False, 0)}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _filled(text: str, region: str = "", node: str = "") -> str:
    if region:
        text = text.replace("{region}", region)
    return text.replace("{node}", node) if node else text


def _names(text: str, regions: Sequence[RegionConfiguration], node: str | None) -> list[tuple[str, str]]:
    """Return the (region, node) pairs for which a consumer's file stands."""
    if "{node}" in text:
        return [(r.region, name) for r in regions for name in r.nodes if node in (None, name)]
    if "{region}" in text:
        return [(r.region, "") for r in regions]
    return [("", "")]


def _expanded(text: str, regions: Sequence[RegionConfiguration]) -> dict[str, Any]:
    """Decode a stream's body; a source that names {region} stands for one of each region."""
    body: dict[str, Any] = msgspec.json.decode(text)
    if "sources" in body:
        template = msgspec.json.encode(body["sources"]).decode()
        body["sources"] = [
            source for region in regions for source in msgspec.json.decode(_filled(template, region.region))
        ]
    return body

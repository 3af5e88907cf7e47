"""Signs of life, on core NATS: a node's health upwards, governance's beat downwards. Stores nothing, decides nothing.

Lost when nobody listens: the next one comes two seconds later. The hub keeps each node's last HealthCheck in HEALTH.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from openkcm.bus.connection import Connection
from openkcm.bus.messages import Message, Stored, stored_of
from openkcm.contract.subjects import ReportSubject, beat

__all__ = ["health_subject", "say", "subscribe_beats", "subscribe_health"]

Heard = Callable[[Stored], Awaitable[None]]
End = Callable[[], Awaitable[None]]


def health_subject(region: str, node: str) -> str:
    """Return where a node's HealthCheck goes."""
    return str(ReportSubject(region, node, "_", "health-check"))


async def say(
    connection: Connection,
    subject: str,
    body: bytes,
    *,
    id: str,  # noqa: A002 -- the field's word
    tag: str,
) -> None:
    """Say that this node lives (node); answer a region's nodes, or ask one of them (governance).

    Raises:
        Unavailable: Not connected.
        Refused: Not one's own subject.
    """
    await connection.publish_checked(subject, body, headers={"Nats-Msg-Id": id, "Kcm-Tag": tag})


async def subscribe_health(connection: Connection, heard: Heard) -> End:
    """Call `heard` with each node's HealthCheck as it comes (governance); return what ends it.

    Raises:
        Refused, Unavailable: As they say.
    """
    return await _subscribe(connection, "kcm.report.*.*._.health-check", heard)


async def subscribe_beats(connection: Connection, region: str, heard: Heard) -> End:
    """Call `heard` with each beat towards the region (node); return what ends it.

    Raises:
        Refused, Unavailable: As they say.
    """
    return await _subscribe(connection, beat(region), heard)


async def _subscribe(connection: Connection, subject: str, heard: Heard) -> End:
    async def hear(message: Message) -> None:
        # Not stored anywhere as far as the receiver can know: the subject is the one it came on, the cursor none.
        await heard(Stored(0, message.subject, message.body, stored_of(message).id))

    return await connection.subscribe(subject, hear)

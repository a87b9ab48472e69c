"""Clients: `connect` for trio and asyncio, `connect_sync` for everybody else.

The deterministic part (what to send, when to believe an answer) is `bftkit.channel.client`; here it is only driven.
"""

from bftkit.client.aio import AsyncClient
from bftkit.client.connect import connect, connect_sync
from bftkit.client.errors import (
    ClientError,
    Contradicted,
    NoAnswer,
    OperationFailed,
    OutcomeUnknown,
    Refused,
    TooFewAgreed,
    TooLate,
)
from bftkit.client.reading import Reading
from bftkit.client.sync import SyncClient

__all__ = [
    "AsyncClient",
    "ClientError",
    "Contradicted",
    "NoAnswer",
    "OperationFailed",
    "OutcomeUnknown",
    "Reading",
    "Refused",
    "SyncClient",
    "TooFewAgreed",
    "TooLate",
    "connect",
    "connect_sync",
]

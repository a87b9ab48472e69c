"""A group's hand-overs as a file, for a machine that is to join: it learns from them who the members are now.

A new member has the genesis, and with it the founders. Where none of these runs any more, nobody whom it knows could
show it the way. So operators may give it the history as they have verified it. The machine verifies it once more, link
by link from the genesis on (SAFETY rule 28): the file can keep it from joining, and cannot lead it astray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import attrs

from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import DIGEST_SIZE, digest
from bftkit.core.wire import Blob, Codec, Digest32, Many, WireError
from bftkit.crypto.keys import verify_signature
from bftkit.membership.chain import LINK_BYTES_MAX, ChainError, HandOver, follow
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place, roster_verifier

HISTORY_FILE: Final = "history.bin"
"""Its name in a member's folder."""
HISTORY_BYTES_MAX: Final = 64 << 20
_MAGIC: Final = b"bftkit history 1\n"
_ADVICE: Final = "write it anew with bftkit history --save FILE"


@attrs.frozen
class _History:
    group: Digest32
    links: Annotated[tuple[bytes, ...], Many(Blob(LINK_BYTES_MAX), 1 << 20)]


_CODEC: Final = Codec[_History]("history", {1: _History}, bytes_max=HISTORY_BYTES_MAX)


def history_to_bytes(group: bytes, links: Sequence[HandOver]) -> bytes:
    """The file's content: all hand-overs of this group, from the one that ends epoch 0 on."""
    body = _CODEC.encode(_History(group, tuple(link.encode() for link in links)))
    return _MAGIC + body + digest(_MAGIC, body)


def history_from_bytes(genesis: Genesis, data: bytes) -> tuple[HandOver, ...]:
    """The hand-overs in a file, each verified from this genesis on. Raises `ConfigurationError`."""
    group = genesis.group_id
    body, check = data[len(_MAGIC) : -DIGEST_SIZE], data[-DIGEST_SIZE:]
    try:
        if not data.startswith(_MAGIC):
            raise WireError("it is no such file")
        if digest(_MAGIC, body) != check:
            raise WireError("it is damaged")
        history = _CODEC.decode(body)
        if history.group != group:
            raise WireError("it is another group's")
        links = tuple(HandOver.decode(raw) for raw in history.links)
        place, verifier = founding_place(genesis), roster_verifier(group)
        for link in links:
            place = follow(group, place, link, verifier, verify_signature)
    except (WireError, ChainError) as error:
        raise ConfigurationError("", f"the group's history cannot be taken from this file: {error}", _ADVICE) from None
    return links

"""How the HTTP interface says no: always as what is wrong, where, and what would be right."""

from __future__ import annotations

import json
from typing import Final

import attrs


@attrs.frozen
class Refused(Exception):
    """A request that is not let in, or not carried out."""

    code: int
    """The HTTP status."""
    error: str
    where: str
    right: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """The answer, as JSON."""
        return json.dumps({"error": self.error, "where": self.where, "right": self.right}).encode()


BUG: Final = Refused(500, "this member could not answer", "", "see its log, or ask another member")
"""What the caller is told of our own bug."""

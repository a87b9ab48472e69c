"""What was found out once, remembered: the results of pure functions that are dear, such as checks of signatures.

The same vote, certificate or proof reaches a member by several ways: alone, inside somebody's certificate, inside the
justification of a later message. A memo lets it be checked once. It holds only what follows from its key and from the
keyring of the `Setup` that it lies in, so it is no state: forgetting any of it changes no result, only the time.

Keep what was found *good* only. What a liar makes up then takes no room, and each lie costs it what it costs us.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Key: TypeAlias = tuple[str | int | bytes, ...]

BYTES_MAX: Final = 4 << 20
"""The newest findings take about so many bytes at most, and those before them as many again."""

ENTRY_BYTES: Final = 256
"""About what an entry takes beside its bytes."""


class Memo:
    """Findings by key. The newest are kept; of the older ones those that are asked for."""

    __slots__ = ("_before", "_bytes_max", "_known", "_size")

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        """`bytes_max` bounds the newest findings; in all there are at most twice as many bytes."""
        self._bytes_max = bytes_max
        self._known: dict[Key, bytes] = {}
        self._before: dict[Key, bytes] = {}
        self._size = 0

    def recall(self, key: Key) -> bytes | None:
        """What was found for this key; None if it is not known, or no more."""
        finding = self._known.get(key)
        if finding is None:
            finding = self._before.get(key)
            if finding is not None:
                self.keep(key, finding)
        return finding

    def keep(self, key: Key, finding: bytes = b"") -> None:
        """Remember a finding. The key says all that it depends on; its first item says what kind of finding it is."""
        size = ENTRY_BYTES + len(finding) + sum([len(item) for item in key if not isinstance(item, int)])
        if self._size + size > self._bytes_max:
            self._before, self._known, self._size = self._known, {}, 0
        self._known[key] = finding
        self._size += size

    def __len__(self) -> int:
        return len(self._known) + len(self._before)

    def __deepcopy__(self, memo: object) -> Memo:
        # It holds nothing that a copy could find otherwise.
        return self

"""By which way the command line reaches a group: over links, or through members' HTTP interfaces.

``--api URL --token-file FILE`` may stand in any command of `THROUGH_HTTP`, like ``--json`` in every one; both may be
repeated, for more members (a token for each, in the same order), and ``--ca FILE`` names the certificates to trust.
Nothing here speaks HTTP: see `reach`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

THROUGH_HTTP: Final = frozenset(
    {"status", "switch", "member", "operator", "qos", "policy", "history", "events", "evidence"}
)
"""Commands for which a member's HTTP interface does as well."""
_OPTIONS: Final = ("--api", "--token-file", "--ca")


class WayError(ValueError):
    """The options do not say a way; the text says why."""


@attrs.frozen
class Way:
    """Through these interfaces."""

    urls: tuple[str, ...]
    token_files: tuple[Path, ...]
    authority: Path | None


def take_way(words: list[str]) -> Way | None:
    """Take the options out of a command's arguments; None if they are not there. Raises `WayError`."""
    if not words or words[0] not in THROUGH_HTTP:
        return None
    end = words.index("--") if "--" in words else len(words)
    found: dict[str, list[str]] = {option: [] for option in _OPTIONS}
    rest: list[str] = []
    given = iter(words[:end])
    for word in given:
        option, equals, value = word.partition("=")
        if option not in found:
            rest.append(word)
            continue
        if not equals:
            value = next(given, "")
        if not value or value in found:
            raise WayError(f"{option} needs a value")
        found[option].append(value)
    words[:end] = rest
    urls, files, authorities = (found[option] for option in _OPTIONS)
    if not urls:
        if files or authorities:
            raise WayError("--token-file and --ca mean nothing without --api")
        return None
    if len(files) != len(urls):
        raise WayError(f"--api {len(urls)} times, and --token-file {len(files)} times: give a token for each")
    if len(authorities) > 1:
        raise WayError("--ca is there twice")
    return Way(tuple(urls), tuple(map(Path, files)), Path(authorities[0]) if authorities else None)


_way: Way | None = None


def way() -> Way | None:
    """The way of the command that runs now; None: over links."""
    return _way


def use_way(chosen: Way | None) -> None:
    """Make this the way of what runs from now on."""
    global _way
    _way = chosen

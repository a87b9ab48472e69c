"""Proofs of lies, kept in the member's folder: a file each, in the form of `bftkit.membership.evidence`.

They survive restarts and power cuts (each is synced, off the member's own thread: `scribe`), and are bounded: so many
for each member and fault (in a process's life), and so many in all; a liar can make new ones for ever, and each says
the same about it. The oldest stay: the first lie is the one that people ask about. Whatever the disk does with them,
the member goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.membership.chain import Place
from bftkit.membership.evidence import Evidence
from bftkit.node.scribe import Job, at_once, sync_folder

logger = logging.getLogger("bftkit.node")

FOLDER: Final = "evidence"
FILES_MAX: Final = 256
PROOF_BYTES_MAX: Final = 16 << 20


class EvidenceStore:
    """One member's evidence."""

    def __init__(
        self,
        folder: Path | None,
        group: bytes,
        me: MemberId,
        place: Place,
        *,
        wall_clock: Callable[[], float] = time.time,
        files_max: int = FILES_MAX,
        write: Callable[[Job], bool] = at_once,
    ) -> None:
        """`folder`: where to keep it, made when there is some; None: nowhere. `place`: of the present epoch.

        `write`: has a file written, now or soon (`Scribe.write`); False if it cannot take it.
        """
        self.place = place
        self._folder = folder
        self._group = group
        self._me = me
        self._wall_clock = wall_clock
        self._files_max = files_max
        self._write = write
        self._names = {path.stem for path in evidence_files(folder)} if folder is not None else set[str]()

    @property
    def count(self) -> int:
        """How many proofs are kept."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the proofs that are kept, sorted."""
        return tuple(sorted(self._names))

    def read(self, name: str) -> Evidence:
        """One proof, unchecked; reads the disk. Raises `KeyError` for a name that is not kept, `ConfigurationError`."""
        if self._folder is None or name not in self._names:
            raise KeyError(name)
        return read_evidence(self._folder / f"{name}.toml")

    def keep(self, member: MemberId, fault: str, proof: bytes) -> str | None:
        """Keep a proof; its name, or None if it is not kept (known already, too many, too long, too much waits).

        The disk may fail later: then a warning says so, and the same proof is taken again.
        """
        here = self.place.configuration
        seen = int(self._wall_clock() * 1000)
        opening = self.place.opening
        found = Evidence(self._group, here.epoch, opening, here.protocol, member, fault[:400], proof, self._me, seen)
        if self._folder is None or found.name in self._names:
            return None
        if len(self._names) >= self._files_max or len(proof) > PROOF_BYTES_MAX:
            return None
        self._names.add(found.name)
        if not self._write(partial(self._keep, self._folder, found)):
            self._names.discard(found.name)
        return found.name if found.name in self._names else None

    def _keep(self, folder: Path, found: Evidence) -> None:
        """Write it, whole or not at all, and durably."""
        try:
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                sync_folder(folder.parent)
            work = folder / f".{found.name}.new"
            with work.open("w", encoding="utf-8") as file:
                file.write(found.to_text())
                file.flush()
                os.fsync(file.fileno())
            work.replace(folder / f"{found.name}.toml")
            sync_folder(folder)
        except OSError as error:
            self._names.discard(found.name)
            told = error.strerror or error
            logger.warning("%s: evidence against %s cannot be kept: %s", self._me, found.member, told)


def evidence_files(folder: Path) -> list[Path]:
    """The files with evidence in a folder, sorted by epoch and member."""
    return sorted(folder.glob("*.toml"), key=lambda path: (path.stem.partition("-")[0].zfill(20), path.stem))


def read_evidence(path: Path) -> Evidence:
    """The evidence in a file, unchecked. Raises `ConfigurationError`."""
    try:
        return Evidence.from_text(path.read_text("utf-8"))
    except ConfigurationError as error:
        raise error.inside(str(path)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), "the file is not UTF-8 text", "give the path of the right file") from None


def read_all(folder: Path) -> Iterator[tuple[Path, Evidence]]:
    """All evidence in a folder. Raises `ConfigurationError` for a file that is none."""
    for path in evidence_files(folder):
        yield path, read_evidence(path)

"""The HTTP interface's part of founding a group: each member's settings, and fresh tokens for those who will ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from bftkit.admin.tokens import ROLES, Role, Tokens, entry_of, new_token
from bftkit.configuration.settings import AdminSettings
from bftkit.core.machine import MemberId
from bftkit.network.addresses import Address, parse_address
from bftkit.node.folders import write_file

FOLDER: Final = "admin"
"""Where the founder's tokens lie, beside the members' folders: a file each, such as ``m0.read``."""


@attrs.frozen
class Access:
    """One member's interface, as it is founded."""

    settings: AdminSettings
    tokens: Mapping[Role, str] = attrs.field(repr=False)

    @classmethod
    def at(cls, address: str, port: int) -> Access:
        """At this port: of the member's own address if only this machine reaches that, else of 127.0.0.1."""
        own = parse_address(address)
        host = own.host if own.is_numeric and own.host.startswith("127.") else "127.0.0.1"
        settings = AdminSettings(str(Address("tcp", host, port)))
        return cls(settings, {role: new_token() for role in ROLES})

    def write_digests(self, folder: Path) -> None:
        """Into the member's folder."""
        entries = tuple(entry_of("founder", role, token) for role, token in self.tokens.items())
        write_file(folder / self.settings.tokens, Tokens(entries).to_text(), 0o600)

    def write_tokens(self, folder: Path, member: MemberId) -> None:
        """Into the founder's folder of tokens."""
        for role, token in self.tokens.items():
            write_file(folder / f"{member}.{role}", f"{token}\n", 0o600)

"""The shelf: protocols are found by name among the installed packages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from bftkit.core import plugin
from bftkit.core.ordering import Carried, OrderingMachine, Plugin, ProtocolRecord, Setup
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol, protocol_names
from bftkit.core.wire import Codec


def create(setup: Setup) -> OrderingMachine:
    raise NotImplementedError(setup)


PLUGIN = Plugin(
    record=ProtocolRecord(
        name="toy",
        title="A toy",
        paper="none",
        byzantine=False,
        timing="partial",
        steps=1,
        messages="n",
        survives=frozenset(),
        when="never",
    ),
    codec=Codec("toy", {}),
    create=create,
    history=lambda setup, stable, records: b"",
    check_history=lambda setup, member, stable, history: False,
    carry=lambda setup, stable, histories: Carried(stable, ()),
)
NO_PLUGIN = "a string"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """The installed entry points, for the length of a test."""
    entries: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [entry for entry in entries if entry.group == group]

    monkeypatch.setattr(plugin, "entry_points", entry_points)
    load_protocol.cache_clear()
    yield entries
    load_protocol.cache_clear()


def entry(name: str, attribute: str, group: str = plugin.GROUP) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{attribute}", group)


def test_a_protocol_is_found_by_its_name(shelf: list[EntryPoint]) -> None:
    shelf += [entry("other", "NO_PLUGIN"), entry("toy", "PLUGIN")]
    assert load_protocol("toy").record is PLUGIN.record


def test_an_unknown_name_is_answered_with_what_is_installed(shelf: list[EntryPoint]) -> None:
    shelf += [entry("toy", "PLUGIN"), entry("raft", "PLUGIN"), entry("cks", "PLUGIN")]
    with pytest.raises(UnknownProtocol, match="no protocol named 'pfbt'; installed: cks, raft, toy"):
        load_protocol("pfbt")


def test_an_empty_shelf_is_called_empty(shelf: list[EntryPoint]) -> None:
    assert not shelf
    with pytest.raises(UnknownProtocol, match="installed: none"):
        load_protocol("pbft")


def test_an_entry_point_that_is_no_plugin_is_refused_by_name(shelf: list[EntryPoint]) -> None:
    shelf.append(entry("toy", "NO_PLUGIN"))
    with pytest.raises(BrokenProtocol, match=r"the entry point toy = .*:NO_PLUGIN is not a bftkit Plugin"):
        load_protocol("toy")


def test_a_package_that_cannot_be_loaded_is_named_with_the_reason(shelf: list[EntryPoint]) -> None:
    shelf.append(EntryPoint("broken", "no_such_package:PLUGIN", plugin.GROUP))
    with pytest.raises(BrokenProtocol, match=r"broken.*no_such_package.*ModuleNotFoundError"):
        load_protocol("broken")


def test_entry_points_of_other_groups_are_not_looked_at(shelf: list[EntryPoint]) -> None:
    shelf.append(entry("toy", "PLUGIN", group="console_scripts"))
    assert protocol_names() == ()
    with pytest.raises(UnknownProtocol):
        load_protocol("toy")


def test_names_are_sorted_and_each_named_once(shelf: list[EntryPoint]) -> None:
    shelf += [entry("toy", "PLUGIN"), entry("cks", "PLUGIN"), entry("toy", "PLUGIN")]
    assert protocol_names() == ("cks", "toy")


def test_a_protocol_that_is_installed_later_is_found_then(shelf: list[EntryPoint]) -> None:
    """A miss is not remembered."""
    with pytest.raises(UnknownProtocol):
        load_protocol("toy")
    shelf.append(entry("toy", "PLUGIN"))
    assert load_protocol("toy").record.name == "toy"


def test_the_protocols_of_this_distribution_are_on_the_shelf() -> None:
    assert {"coordinator", "pbft"} <= set(protocol_names())

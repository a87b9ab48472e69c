"""The name services that do I/O: a file that somebody else writes, and a zone asked for at a real DNS server."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio
import trio.testing

from bftkit.configuration.settings import DnsSettings, NameSettings
from bftkit.core.machine import MemberId
from bftkit.membership.names import TTL_CAP_SECONDS, TTL_FLOOR_SECONDS, NameService, Naming, Proposal, Sink
from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import HubError
from bftkit.node.names import FILE_BYTES_MAX, FILE_SECONDS, Names, WatchedFile, open_services
from bftkit.node.resolver import NEGATIVE_CAP_SECONDS, STRANGE_MAX, Resolver, ResolverError
from bftkit.node.zone import QUESTIONS_AT_ONCE, RETRY_FIRST_SECONDS, RETRY_LONGEST_SECONDS, WatchedZone, member_name
from tests.name_server import NameServer
from tests.unit.test_names import ENTRIES, key

PATIENCE_SECONDS = 60.0
DOMAIN = "shop.example"


class Pauses:
    """Stands in for `trio.sleep`: a pause ends when the test says so, and the test sees how long it was to be."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, trio.Event]] = []
        self._news = trio.Event()

    async def __call__(self, seconds: float) -> None:
        over = trio.Event()
        self.waiting.append((seconds, over))
        self._news.set()
        await over.wait()

    async def until(self, count: int) -> list[float]:
        """Until so many tasks wait; for how long each."""
        with trio.fail_after(PATIENCE_SECONDS):
            while len(self.waiting) < count:
                self._news = trio.Event()
                await self._news.wait()
        return sorted(seconds for seconds, _ in self.waiting)

    async def over(self, count: int = 1) -> list[float]:
        """All pauses end; until so many tasks wait again."""
        for _, over in self.waiting:
            over.set()
        self.waiting.clear()
        return await self.until(count)


@asynccontextmanager
async def watching(service: NameService) -> AsyncGenerator[list[Naming]]:
    """The service at work; what it has told so far."""
    told: list[Naming] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.watch, told.append)
        yield told
        nursery.cancel_scope.cancel()


def naming(member: str, *addresses: str) -> Naming:
    return Naming({member: addresses})


# ------------------------------------------------------------------------------------------------- a file


class Watched:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.pauses = Pauses()
        self.service = WatchedFile(path, pause=self.pauses)

    async def look(self, times: int = 2) -> str:
        """It has looked so often; its trouble after that."""
        for _ in range(times):
            assert await self.pauses.over() == [FILE_SECONDS]
        return self.service.trouble


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "names.toml")


async def test_a_file_is_read_at_once_and_followed(watched: Watched) -> None:
    watched.path.write_text('members.m2 = ["h:1"]')
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        assert told == [naming("m2", "h:1")]
        await watched.look()
        assert len(told) == 1, "no news, nothing told"
        watched.path.write_text('members.m2 = ["h:2"]')
        await watched.look()
        other = watched.path.with_suffix(".new")
        other.write_text('members.m2 = ["h:3"]')
        other.replace(watched.path)
        await watched.look()
        assert told == [naming("m2", f"h:{port}") for port in (1, 2, 3)]


async def test_a_change_that_the_clock_does_not_show_is_seen(watched: Watched) -> None:
    """Same size, same inode, same time."""
    watched.path.write_text('members.m2 = ["h:1"]')
    before = watched.path.stat()
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        watched.path.write_text('members.m2 = ["h:2"]')
        os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await watched.look()
        assert told[-1] == naming("m2", "h:2")


async def test_what_is_half_written_is_not_used(watched: Watched) -> None:
    """Also where the half would be a good file: in the middle of rewriting it, a writer leaves an empty one."""
    whole = 'members.m2 = ["h:1"]\nmembers.m3 = ["h:2"]\n'
    watched.path.write_text(whole)
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        for half in ("", 'members.m2 = ["h:9"]\n', 'members.m2 = ["h:9"]\nmem'):
            watched.path.write_text(half)
            assert await watched.look(1) == ""
        watched.path.write_text(whole)
        assert await watched.look() == ""
        assert len(told) == 1


async def test_a_broken_file_leaves_the_last_good_one_in_force_and_is_told_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.write_text('members.m2 = ["h:1"]')
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        watched.path.write_text("members = 3")
        trouble = await watched.look(5)
        assert trouble.startswith("is not used: members: the value has the wrong shape")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "what it said before goes on holding" in caplog.text
        watched.path.write_bytes(b"\xff")
        assert await watched.look() == "is not used: it is not UTF-8 text"
        watched.path.write_text("members = " + 5000 * "[")
        assert "it is nested too deeply" in await watched.look()
        assert len(told) == 1
        watched.path.write_text('members.m2 = ["h:2"]')
        assert await watched.look() == ""
        assert told[1:] == [naming("m2", "h:2")]


async def test_a_file_that_is_not_there_yet_or_no_more(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        assert await watched.look(3) == "cannot be read: No such file or directory"
        assert len(caplog.records) == 1
        watched.path.write_text('members.m2 = ["h:1"]')
        assert await watched.look() == ""
        watched.path.unlink()
        assert await watched.look() == "cannot be read: No such file or directory"
        watched.path.write_text('members.m2 = ["h:1"]')
        assert await watched.look() == ""
        assert [one for one in told if one != told[0]] == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "too large"])
async def test_what_is_no_file_does_no_harm(watched: Watched, kind: str) -> None:
    """A named pipe, opened as one opens a file, would wait for its writer for ever."""
    if kind == "folder":
        watched.path.mkdir()
    elif kind == "pipe":
        os.mkfifo(watched.path)
    else:
        watched.path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    async with watching(watched.service) as told:
        await watched.pauses.until(1)
        assert (await watched.look()).startswith("cannot be read: it is ")
        assert told == []


# ------------------------------------------------------------------------------------------------- all services


class Service:
    """Tells what the test says, and then fails if it is asked to."""

    def __init__(self, name: str, *namings: Naming, fails: bool = False) -> None:
        self.name = name
        self._namings = namings
        self._fails = fails

    async def watch(self, sink: Sink) -> None:
        for one in self._namings:
            sink(one)
        if self._fails:
            raise RuntimeError("a mistake of ours")
        await trio.sleep_forever()

    def follow(self, members: object) -> None:
        """Nothing depends on it here."""

    def status(self) -> dict[str, object]:
        return {}


async def test_changes_go_to_the_node_and_a_failing_service_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    news_out, news_in = trio.open_memory_channel[tuple[MemberId, tuple[Address, ...]]](10)

    def readdress(member: MemberId, addresses: tuple[Address, ...]) -> None:
        news_out.send_nowait((member, addresses))

    names = Names(
        ENTRIES,
        [
            Service("names.file", naming("m3", "h:3"), fails=True),
            Service("names.dns", naming("m2", "h:1"), Naming({"m2": ("h:2",), "m9": ("h:9",)})),
        ],
        me="m1",
    )
    found: dict[MemberId, list[tuple[Address, ...]]] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run, readdress)
        with trio.fail_after(PATIENCE_SECONDS):
            for _ in range(3):
                member, addresses = await news_in.receive()
                found.setdefault(member, []).append(addresses)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    old2, old3 = (parse_address(f"10.0.0.{number}:7000") for number in (2, 3))
    assert found == {
        "m2": [(old2, parse_address("h:1")), (old2, parse_address("h:2"))],
        "m3": [(old3, parse_address("h:3"))],
    }
    assert "names.dns says in vain: 'm9' is no member" in caplog.text
    assert "the name service names.file failed" in caplog.text


async def test_a_source_that_lies_without_end_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lies = [naming(f"x{number}", "h:1") for number in range(1000)]
    names = Names(ENTRIES, [Service("names.dns", *lies)], me="m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run, dict[MemberId, tuple[Address, ...]]().__setitem__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert names.book.refused == {"names.dns": 1000}
    assert len(caplog.records) < 30


async def test_after_a_change_of_the_roster_every_peer_is_readdressed() -> None:
    names = Names(ENTRIES, [Service("names.file", naming("m3", "h:3"))], me="m1")
    found: dict[MemberId, tuple[Address, ...]] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run, found.__setitem__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found.clear()
    names.follow(ENTRIES, found.__setitem__)
    assert sorted(found) == ["m2", "m3"]
    assert found["m3"][-1] == parse_address("h:3")

    def unable(member: MemberId, addresses: tuple[Address, ...]) -> None:
        raise HubError("this hub cannot dial that")

    names.follow(ENTRIES[:2], unable)  # must not end whoever calls it
    assert sorted(names.book.all_addresses()) == ["m2"]


# ------------------------------------------------------------------------------------------------- the DNS


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer(DOMAIN) as server:
        yield server


class Zone:
    """The service that asks `server`."""

    def __init__(self, server: NameServer, *members: MemberId, timeout: float = PATIENCE_SECONDS) -> None:
        self.pauses = Pauses()
        self.resolver = Resolver(server.address, timeout=timeout)
        self.service = WatchedZone(DOMAIN, self.resolver, members, salt=b"salt", pause=self.pauses)
        self.tasks = len(members) + 1
        """As many pause at a time: each member's, and that of the proposals."""

    async def look(self) -> list[float]:
        return await self.pauses.over(self.tasks)


async def test_a_member_is_found_in_the_dns_and_found_again(server: NameServer) -> None:
    server.set("_m2._bftkit._tcp", "SRV", "20 0 7002 b", "10 0 7001 a")
    server.set("a", "A", "10.0.0.2", "10.0.0.1")
    server.set("a", "AAAA", "2001:db8::1")
    server.set("b", "A", "10.0.0.3")
    zone = Zone(server, "m2", "m3")
    async with watching(zone.service) as told:
        await zone.pauses.until(3)
        assert told == [
            naming(
                "m2", "tcp://10.0.0.1:7001", "tcp://10.0.0.2:7001", "tcp://[2001:db8::1]:7001", "tcp://10.0.0.3:7002"
            )
        ]
        await zone.look()
        assert len(told) == 1, "no news, nothing told"
        server.set("_m2._bftkit._tcp", "SRV", "0 0 7009 b")
        server.set("_m3._bftkit._tcp", "SRV", "0 0 7003 b")
        await zone.look()
        assert told[-1] == Naming({"m2": ("tcp://10.0.0.3:7009",), "m3": ("tcp://10.0.0.3:7003",)})
        server.set("_m2._bftkit._tcp", "SRV")
        await zone.look()
        assert told[-1] == Naming({"m2": (), "m3": ("tcp://10.0.0.3:7003",)}), "no such name is an answer too"
        server.set("_m3._bftkit._tcp", "SRV", "0 0 0 .")
        await zone.look()
        assert told[-1].members["m3"] == (), "the root as the target says that there is no such service"
        assert "." not in server.questions, "and nobody need be asked for the root's address"


async def test_aliases_are_followed_and_an_id_with_a_dot_stays_one_label(server: NameServer) -> None:
    assert member_name("m.0", dns.name.from_text("x.")).to_text() == r"_m\.0._bftkit._tcp.x."
    server.set(r"_m\.0._bftkit._tcp", "CNAME", "elsewhere")
    server.set("elsewhere", "SRV", "0 0 7001 a")
    server.set("a", "CNAME", "b")
    server.set("b", "A", "10.0.0.2")
    zone = Zone(server, "m.0")
    async with watching(zone.service) as told:
        await zone.pauses.until(2)
        assert told == [naming("m.0", "tcp://10.0.0.2:7001")]


async def test_proposals_stand_in_txt_records(server: NameServer) -> None:
    server.set("_bftkit._tcp", "TXT", '"v=spf1"', f'"id=m4" "identity={key("m4").hex()}" "address=h:1"')
    zone = Zone(server)
    async with watching(zone.service) as told:
        await zone.pauses.until(1)
        assert told == [Naming({}, (Proposal("m4", key("m4").hex(), ("h:1",)),))]


async def test_the_shortest_life_counts_within_a_floor_and_a_cap(server: NameServer) -> None:
    server.set("_bftkit._tcp", "TXT", "v", ttl=1 << 30)
    server.set("_m2._bftkit._tcp", "SRV", "0 0 7001 a", ttl=60)
    server.set("a", "A", "10.0.0.2", ttl=40)
    zone = Zone(server, "m2")
    async with watching(zone.service):
        assert await zone.pauses.until(2) == [40, TTL_CAP_SECONDS]
        server.set("_m2._bftkit._tcp", "SRV", "0 0 7001 a", ttl=0)
        assert await zone.look() == [TTL_FLOOR_SECONDS, TTL_CAP_SECONDS]
        server.set("_m2._bftkit._tcp", "SRV")
        server.negative_ttl = 1000
        assert await zone.look() == [NEGATIVE_CAP_SECONDS, TTL_CAP_SECONDS]


async def test_what_does_not_fit_into_a_datagram_is_asked_over_tcp(server: NameServer) -> None:
    server.set("_m2._bftkit._tcp", "SRV", *(f"{n} 0 {7000 + n} {'x' * 60}.host-{n}" for n in range(30)))
    server.set(f"{'x' * 60}.host-0", "A", "10.0.0.2")
    zone = Zone(server, "m2")
    async with watching(zone.service) as told:
        await zone.pauses.until(2)
        assert told == [naming("m2", "tcp://10.0.0.2:7000")]
    assert server.asked_over.count("tcp") == 1 == zone.resolver.counters["over_tcp"]


async def test_a_zone_can_not_make_us_busy(server: NameServer) -> None:
    """Hundreds of records: some are looked up, and the book is told of one address too many, no more."""
    server.set("_m2._bftkit._tcp", "SRV", *(f"0 {n} {7000 + n} a" for n in range(300)))
    server.set("a", "A", *(f"10.0.{n}.1" for n in range(200)))
    zone = Zone(server, "m2")
    async with watching(zone.service) as told:
        await zone.pauses.until(2)
        assert len(told[0].members["m2"]) == 17
    assert len([one for one in server.asked_over if one == "udp"]) == 4
    assert QUESTIONS_AT_ONCE < 100


REFUSALS = [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP]


@pytest.mark.parametrize("code", REFUSALS, ids=dns.rcode.to_text)
async def test_a_server_that_fails_changes_nothing_and_is_asked_less_and_less(
    server: NameServer, code: dns.rcode.Rcode, caplog: pytest.LogCaptureFixture
) -> None:
    server.set("_m2._bftkit._tcp", "SRV", "0 0 7001 a")
    server.set("a", "A", "10.0.0.2")
    zone = Zone(server, "m2")
    async with watching(zone.service) as told:
        await zone.pauses.until(2)
        server.code = code
        pauses = [max(await zone.look()) for _ in range(8)]
        assert pauses[:3] == [RETRY_FIRST_SECONDS, 2 * RETRY_FIRST_SECONDS, 4 * RETRY_FIRST_SECONDS]
        assert pauses[-1] == RETRY_LONGEST_SECONDS
        assert told == [naming("m2", "tcp://10.0.0.2:7001")]
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2, "once for each name"
        assert f"the resolver answered {dns.rcode.to_text(code)}" in caplog.text
        server.code = dns.rcode.NOERROR
        server.set("a", "A", "10.0.0.3")
        await zone.look()
        assert told[-1] == naming("m2", "tcp://10.0.0.3:7001")
        assert zone.service.status()["troubles"] == {}


async def test_silence_changes_nothing(server: NameServer) -> None:
    server.set("_m2._bftkit._tcp", "SRV", "0 0 7001 a")
    server.set("a", "A", "10.0.0.2")
    zone = Zone(server, "m2", timeout=0.05)
    async with watching(zone.service) as told:
        await zone.pauses.until(2)
        if told:  # on a very busy machine the short patience may be over before the first answer
            assert told == [naming("m2", "tcp://10.0.0.2:7001")]
        server.silent = True
        before = list(told)
        await zone.look()
        assert zone.service.status()["troubles"] == dict.fromkeys(
            ("m2", "proposals"), "the resolver did not answer in time"
        )
        assert told == before
    assert zone.resolver.counters["timeouts"] >= 4


async def test_members_come_and_go(server: NameServer) -> None:
    for number in (2, 3, 4):
        server.set(f"_m{number}._bftkit._tcp", "SRV", f"0 0 700{number} a")
    server.set("a", "A", "10.0.0.2")
    zone = Zone(server, "m2", "m3")
    async with watching(zone.service) as told:
        await zone.pauses.until(3)
        zone.service.follow(["m3", "m4"])
        await zone.pauses.until(4)
        assert told[-1] == Naming({"m3": ("tcp://10.0.0.2:7003",), "m4": ("tcp://10.0.0.2:7004",)})
        asked = server.questions.count("_m2._bftkit._tcp")
        for _ in range(5):
            await zone.look()
        assert server.questions.count("_m2._bftkit._tcp") == asked
        assert server.questions.count("_m4._bftkit._tcp") == 6


# ------------------------------------------------------------------------------------------------- who lies

Forge = Callable[[dns.message.Message], bytes]


def forged(query: dns.message.Message, **changes: object) -> bytes:
    """An answer in the server's name: somebody else's address."""
    reply = dns.message.make_response(query)
    for field, value in changes.items():
        setattr(reply, field, value)
    name = reply.question[0].name if reply.question else query.question[0].name
    reply.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "6.6.6.6"))
    return reply.to_wire()


def _other_question(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("other.example.", dns.rdatatype.A, id=query.id)
    return forged(other)


FORGERIES: dict[str, Forge] = {
    "another id": lambda query: forged(query, id=query.id ^ 1),
    "another question": _other_question,
    "no question": lambda query: forged(query, question=[]),
    "no answer but a question": lambda query: query.to_wire(),
    "garbage": lambda query: b"\xff" * 40,
    "nothing": lambda query: b"",
    "cut off": lambda query: forged(query)[:-3],
    "more than one message": lambda query: forged(query) + b"x",
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_a_forged_datagram_is_counted_and_the_true_answer_still_awaited(server: NameServer, kind: str) -> None:
    server.set("a", "A", "10.0.0.2")
    server.lie = lambda query, answer: [FORGERIES[kind](query), answer]
    resolver = Resolver(server.address, timeout=PATIENCE_SECONDS)
    answer = await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)
    assert [str(record) for record in answer.records] == ["10.0.0.2"]
    assert resolver.counters["strange"] + resolver.counters["malformed"] == 1


async def test_an_answer_from_another_port_is_none(server: NameServer) -> None:
    """The best forgery there is: right id, right question, sent by whoever could read them."""
    server.set("a", "A", "10.0.0.2")
    spy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked_from: list[tuple[str, int]] = []
    with spy:

        def lie(query: dns.message.Message, answer: bytes) -> list[bytes]:
            spy.sendto(forged(query), asked_from[-1])
            return [answer]

        server.asking = asked_from.append
        server.lie = lie
        resolver = Resolver(server.address, timeout=PATIENCE_SECONDS)
        answer = await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)
    assert [str(record) for record in answer.records] == ["10.0.0.2"]
    assert resolver.counters["strange"] == 1


async def test_who_guesses_often_ends_the_question(server: NameServer) -> None:
    """The next attempt has another id and another port, so the guesses begin anew."""
    server.set("a", "A", "10.0.0.2")
    ports: list[tuple[str, int]] = []
    ids: list[int] = []

    def lie(query: dns.message.Message, answer: bytes) -> list[bytes]:
        ids.append(query.id)
        return [forged(query, id=query.id ^ 1)] * STRANGE_MAX + [answer]

    server.asking = ports.append
    server.lie = lie
    resolver = Resolver(server.address, timeout=PATIENCE_SECONDS, attempts=3)
    with pytest.raises(ResolverError, match="answers to what was not asked"):
        await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)
    assert resolver.counters["strange"] == 3 * STRANGE_MAX
    assert len(set(ids)) > 1
    assert len(set(ports)) > 1


def _twice_round(query: dns.message.Message) -> bytes:
    reply = dns.message.make_response(query)
    name = query.question[0].name
    other = dns.name.from_text("loop.shop.example.")
    reply.answer.append(dns.rrset.from_text(name, 1, "IN", "CNAME", other.to_text()))
    reply.answer.append(dns.rrset.from_text(other, 1, "IN", "CNAME", name.to_text()))
    return reply.to_wire()


def _truncated(query: dns.message.Message) -> bytes:
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.TC
    return reply.to_wire()


def _denied(query: dns.message.Message) -> bytes:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "A", "6.6.6.6"))
    return reply.to_wire()


SENSELESS: dict[str, tuple[Forge, str]] = {
    "aliases in a circle": (_twice_round, "the resolver's answer makes no sense"),
    "no such name, and its address": (_denied, "the resolver's answer makes no sense"),
    "too long for TCP as well": (_truncated, "the resolver answered another question"),
}


@pytest.mark.parametrize("kind", SENSELESS)
async def test_a_senseless_answer_is_none(server: NameServer, kind: str) -> None:
    forge, reason = SENSELESS[kind]
    server.lie = lambda query, answer: [forge(query)]
    resolver = Resolver(server.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(ResolverError, match=reason):
        await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)


async def test_a_connection_that_ends_early_is_no_answer(server: NameServer) -> None:
    server.lie = lambda query, answer: [_truncated(query)] if server.asked_over[-1] == "udp" else []
    resolver = Resolver(server.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(ResolverError, match="closed the connection"):
        await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)


async def test_a_connection_that_ends_before_the_question_is_no_answer(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the name service for good otherwise: a member that moves later would not be found any more."""

    async def reset(stream: trio.SocketStream, data: bytes) -> None:
        raise trio.BrokenResourceError from ConnectionResetError()

    monkeypatch.setattr(trio.SocketStream, "send_all", reset)
    server.lie = lambda query, answer: [_truncated(query)]
    resolver = Resolver(server.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(ResolverError, match="closed the connection"):
        await resolver.ask(dns.name.from_text(f"a.{DOMAIN}."), dns.rdatatype.A)
    assert resolver.counters["asked"] == 2, "it was tried again"


# ------------------------------------------------------------------------------------------------- opening


async def test_the_settings_open_the_services_in_their_order(tmp_path: Path) -> None:
    settings = NameSettings(file="names.toml", dns=DnsSettings(DOMAIN, "127.0.0.1:53"))
    services = open_services(settings, tmp_path, ("m2", "m3"))
    assert [service.name for service in services] == ["names.file", "names.dns"]
    assert services[0].status()["path"] == str(tmp_path / "names.toml")
    assert services[1].status()["domain"] == f"{DOMAIN}."

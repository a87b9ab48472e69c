"""What is measured at a member, as a table: one `Metric` for each, with its name, unit, labels, meaning, and how it is
read.

All are read when they are asked for, from what the member has anyway. Names are as in etcd and CometBFT: ``bftkit_``,
then what it is about, then the base unit; what only grows ends in ``_total``, and begins anew with the process.

Labels have few values, and no peer chooses any: members of the present configuration (and one for all who are none),
routes of the interface, and words that stand here. Texts of faults are no labels, since a liar words them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final, Literal, TypeAlias

import attrs

from bftkit.admin.facade import Facade
from bftkit.node.blames import OTHERS
from bftkit.node.sync_times import SyncTimes

Kind: TypeAlias = Literal["gauge", "counter", "histogram", "info"]
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
"""Values of the labels, and the value. No samples: there is nothing to be said now."""


@attrs.frozen
class Scrape:
    """A member at the moment at which it is asked."""

    facade: Facade
    status: Mapping[str, Any]
    members: tuple[str, ...]
    """Those of the present configuration, in the roster's order."""

    @classmethod
    def of(cls, facade: Facade) -> Scrape:
        """Now."""
        return cls(facade, facade.node.status(), tuple(facade.here.members))

    @property
    def others(self) -> list[str]:
        """The members besides this one."""
        return [member for member in self.members if member != self.facade.node.replica.me]

    @property
    def policy(self) -> Mapping[str, Any]:
        """What the member says of the policy; empty if there is none."""
        return self.status.get("policy") or {}


@attrs.frozen
class Metric:
    """A thing that is measured."""

    name: str
    """Without ``_total`` or ``_info``, but with its unit."""
    kind: Kind
    unit: Literal["", "seconds", "bytes"]
    """Empty: a number of what the name says, or 1 for yes and 0 for no."""
    text: str
    read: Callable[[Scrape], Samples | SyncTimes]
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As it stands in the text form; of a histogram, what its series begin with."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _one(read: Callable[[Scrape], float | None]) -> Callable[[Scrape], Samples]:
    """A single value, if there is one."""

    def samples(scrape: Scrape) -> Samples:
        value = read(scrape)
        return () if value is None else (((), value),)

    return samples


def _gauge(name: str, text: str, read: Callable[[Scrape], float | None]) -> Metric:
    return Metric(f"bftkit_{name}", "gauge", _unit(name), text, _one(read))


def _counter(name: str, text: str, read: Callable[[Scrape], float]) -> Metric:
    return Metric(f"bftkit_{name}", "counter", _unit(name), text, _one(read))


def _unit(name: str) -> Literal["", "seconds", "bytes"]:
    return "seconds" if name.endswith("_seconds") else "bytes" if name.endswith("_bytes") else ""


def _replica(name: str, key: str, text: str) -> Metric:
    """A counter of `bftkit.channel.replica.Counters`."""
    return _counter(name, text, lambda scrape: getattr(scrape.facade.node.replica.counters, key))


def _network(name: str, key: str, text: str) -> Metric:
    """A counter of the hub."""
    return _counter(name, text, lambda scrape: scrape.facade.node.hub.counters[key])


def _condition(name: str, key: str, text: str, scale: float = 1) -> Metric:
    """A lower median of what the members measured, as the policy has it."""

    def read(scrape: Scrape) -> float | None:
        conditions = scrape.policy.get("conditions")
        return None if conditions is None else conditions[key] / scale

    return _gauge(f"policy_{name}", f"{text} Lower median of what the members reported last.", read)


def _decided(scrape: Scrape) -> int:
    replica = scrape.facade.node.replica
    return max(replica.applied, max(replica.history, default=0), max(replica.catchup.learned, default=0))


def _requests_waiting(scrape: Scrape) -> int:
    return sum(waiting.bundle.count for waiting in scrape.facade.node.replica.pool.entries.values())


def _up(scrape: Scrape) -> Samples:
    up = set(scrape.facade.node.hub.up())
    return [((member,), member in up) for member in scrape.others]


def _silence(scrape: Scrape) -> Samples:
    node = scrape.facade.node
    now = node.hub.clock()
    return [((member,), max(0.0, now - node.heard[member])) for member in scrape.others if member in node.heard]


def _blames(scrape: Scrape) -> Samples:
    """Of the present members, and of all that were none when they were blamed: so no count ever falls."""
    found = scrape.facade.node.blames
    rows = [*scrape.others, OTHERS]
    return [((member, kind), found[member, kind]) for member in rows for kind in ("refused", "unproved", "proved")]


def _switches(scrape: Scrape) -> Samples:
    found = scrape.facade.node.chronicle.switches
    return [((kind, cause), found[kind, cause]) for kind in ("planned", "forced") for cause in ("operators", "policy")]


def _switch_seconds(key: Literal["pause_ms", "ready_ms"]) -> Callable[[Scrape], float | None]:
    def read(scrape: Scrape) -> float | None:
        switch = scrape.facade.node.chronicle.switch
        milliseconds: float | None = None if switch is None else getattr(switch, key)
        return None if milliseconds is None else milliseconds / 1000

    return read


def _clock_offset(scrape: Scrape) -> float | None:
    replica = scrape.facade.node.replica
    return (replica.state.clock.now_ms - replica.clock_ms) / 1000 if replica.state.clock.now_ms else None


def _deadline(scrape: Scrape) -> float | None:
    qos = scrape.facade.here.qos
    return qos.deadline_ms / 1000 if qos is not None and qos.deadline_ms else None


def _requests(scrape: Scrape) -> Samples:
    return [((route, str(code)), count) for (route, code), count in sorted(scrape.facade.requests.items())]


def _dropped(scrape: Scrape) -> Samples:
    counters = scrape.facade.node.hub.counters
    return [((reason,), counters[f"dropped_{reason}"]) for reason in ("full", "down", "unknown")]


METRICS: Final[tuple[Metric, ...]] = (
    # -------------------------------------------------------------------------------- who this is
    Metric(
        "bftkit_build",
        "info",
        "",
        "The version of bftkit, and of the Python that runs it. Always 1.",
        lambda scrape: [((version("bftkit"), platform.python_version()), 1)],
        ("version", "python"),
    ),
    Metric(
        "bftkit_member",
        "info",
        "",
        "The member that answers, and the protocol of its present epoch. Always 1.",
        lambda scrape: [((scrape.status["member"], scrape.status["protocol"]), 1)],
        ("member", "protocol"),
    ),
    _gauge("uptime_seconds", "How long this process has had the member.", lambda scrape: scrape.facade.node.uptime),
    # -------------------------------------------------------------------------------- the group, the protocol
    _gauge("epoch", "The number of the present configuration.", lambda scrape: scrape.status["epoch"]),
    _gauge("members", "Members of the present configuration.", lambda scrape: len(scrape.members)),
    _gauge(
        "byzantine_faults_tolerated",
        "So many members may lie (f).",
        lambda scrape: scrape.facade.here.quorum.f,
    ),
    _gauge("crash_faults_tolerated", "So many more may be down (c).", lambda scrape: scrape.facade.here.quorum.c),
    _gauge("view", "The protocol's view, ballot or round.", lambda scrape: scrape.status["view"]),
    _gauge("has_leader", "Whether a leader is known here.", lambda scrape: scrape.status["leader"] is not None),
    _gauge(
        "is_leader",
        "Whether this member leads, as it believes.",
        lambda scrape: scrape.status["leader"] == scrape.status["member"],
    ),
    _gauge(
        "everybody_proposes",
        "Whether the protocol has no leader, so that all members propose.",
        lambda scrape: scrape.status["everybody_proposes"],
    ),
    _replica("leader_changes", "view_changes", "Views (ballots) above the first that this member saw begin."),
    _gauge(
        "halted", "Whether this member has stopped taking part.", lambda scrape: scrape.status["stopped"] is not None
    ),
    _gauge(
        "silent",
        "Whether it has forgotten what it promised, and votes for nothing in this epoch.",
        lambda scrape: scrape.status["silent"],
    ),
    _gauge("catching_up", "Whether it is fetching what others have.", lambda scrape: scrape.status["catching_up"]),
    # -------------------------------------------------------------------------------- slots and operations
    _gauge("decided_slot", "The highest slot that is known here to be decided.", _decided),
    _gauge("applied_slot", "The last slot that was executed here.", lambda scrape: scrape.status["applied"]),
    _gauge("stable_slot", "The last slot whose state a quorum has signed.", lambda scrape: scrape.status["stable"]),
    _replica("batches_proposed", "proposed", "Batches that this member made and proposed."),
    _replica("batches_executed", "batches", "Batches that were executed here."),
    _replica("batches_learned", "learned", "Slots whose decision came from other members and not from the protocol."),
    _replica("batches_returned", "returned", "Batches that were left out of their rounds and offered again."),
    _counter(
        "operations_executed",
        "Operations that were executed here, failed ones among them.",
        lambda scrape: scrape.status["executed"],
    ),
    _counter(
        "operations_failed",
        "Operations for which the application raised an exception.",
        lambda scrape: scrape.status["failed"],
    ),
    _counter(
        "operations_late",
        "Operations that were answered that they came too late, and not executed.",
        lambda scrape: scrape.facade.node.replica.state.late,
    ),
    _gauge("requests_waiting", "Requests that wait here to be ordered.", _requests_waiting),
    _gauge("pool_bytes", "What waits takes up so much.", lambda scrape: scrape.facade.node.replica.pool.size),
    _gauge(
        "pool_limit_bytes",
        "What waits may take up so much; beyond it clients are told to wait.",
        lambda scrape: scrape.facade.node.replica.pool.bytes_max,
    ),
    _gauge("client_sessions", "Clients' sessions that are kept.", lambda scrape: scrape.status["sessions"]),
    _gauge(
        "agreed_clock_offset_seconds",
        "Agreed time less this member's clock. Agreed time goes on with decisions only: it falls behind in an idle "
        "group. Absent until enough members have reported theirs.",
        _clock_offset,
    ),
    _gauge("qos_deadline_seconds", "So soon a request must be executed, or it is late. Absent: whenever.", _deadline),
    # -------------------------------------------------------------------------------- checkpoints
    _replica("checkpoints", "checkpoints", "Checkpoints that became stable here."),
    _replica("state_transfers", "transfers", "States that were fetched from other members."),
    _replica("state_transfer_bytes", "transferred_bytes", "Bytes of states that were fetched."),
    # -------------------------------------------------------------------------------- the network
    Metric("bftkit_peer_up", "gauge", "", "Whether there is a link with this member.", _up, ("member",)),
    Metric(
        "bftkit_peer_silence_seconds",
        "gauge",
        "seconds",
        "How long nothing was heard of this member. Absent until it was heard.",
        _silence,
        ("member",),
    ),
    _gauge("clients_connected", "Clients that have a link with this member.", lambda scrape: scrape.status["clients"]),
    _network("network_received_bytes", "bytes_in", "Bytes received over open links."),
    _network("network_sent_bytes", "bytes_out", "Bytes given to links."),
    _network("network_received_frames", "frames_in", "Frames received."),
    _network("network_sent_frames", "frames_out", "Frames given to links."),
    Metric(
        "bftkit_network_dropped_frames",
        "counter",
        "",
        "Frames that were not sent: the peer's queue was full, no link led there for long, or nobody knows the peer.",
        _dropped,
        ("reason",),
    ),
    _network("network_links_opened", "links_up", "Links opened."),
    _network("network_links_lost", "links_down", "Links lost."),
    _network("network_dials_failed", "dial_failed", "Fruitless attempts to dial a member."),
    _network("network_strangers_refused", "refused", "Strangers turned away."),
    _network("network_slow_readers", "slow_readers", "Links closed since the peer did not read."),
    _network("network_broken_links", "peer_faults", "Links closed since the peer broke format or encryption."),
    # -------------------------------------------------------------------------------- faults of others
    _replica("refused_frames", "refused_frames", "Frames of members, clients and strangers that were refused."),
    _replica("stranger_frames", "strangers", "Refused frames whose sender is no member in the present epoch."),
    Metric(
        "bftkit_blames",
        "counter",
        "",
        "How often a member was blamed here: a frame of its was refused, or it broke the rules, with proof or without. "
        "`(others)`: who was no member then.",
        _blames,
        ("member", "kind"),
    ),
    _replica("evidence", "evidence", "Blames that came with a proof of the lie."),
    _replica("equivocations", "equivocations", "Blames of members that said two things to different others."),
    _gauge("evidence_kept", "Proofs that are kept here.", lambda scrape: scrape.status["evidence"]),
    # -------------------------------------------------------------------------------- the log
    _gauge("log_bytes", "The log's size on disk.", lambda scrape: scrape.facade.node.log.bytes_on_disk),
    _gauge("log_segments", "The files that the log has.", lambda scrape: scrape.facade.node.log.segments),
    _counter("log_records", "Records appended.", lambda scrape: scrape.facade.node.log.counters.records),
    _counter(
        "log_record_bytes",
        "Bytes of records appended.",
        lambda scrape: scrape.facade.node.log.counters.record_bytes,
    ),
    _counter("log_syncs", "Syncs that waited for the disk.", lambda scrape: scrape.facade.node.log.counters.syncs),
    Metric(
        "bftkit_log_sync_duration_seconds",
        "histogram",
        "seconds",
        "How long a round waited until its records were written, and synced if the log syncs; room on a full disk "
        "is waited for, too.",
        lambda scrape: scrape.facade.node.sync_times,
    ),
    _counter(
        "disk_full_waits",
        "Attempts to write that found the disk full.",
        lambda scrape: scrape.facade.node.counters.disk_full,
    ),
    _counter("rounds", "Rounds of the member's loop.", lambda scrape: scrape.facade.node.counters.rounds),
    # -------------------------------------------------------------------------------- changes, the policy
    Metric(
        "bftkit_switches",
        "counter",
        "",
        "Changes of the configuration that this process went along with, by kind and by who decided them.",
        _switches,
        ("kind", "cause"),
    ),
    _gauge(
        "last_switch_pause_seconds",
        "From the last decision of the epoch before to the first of this one, by this member's clock. Absent at a "
        "member that saw none.",
        _switch_seconds("pause_ms"),
    ),
    _gauge(
        "last_switch_ready_seconds",
        "From when the epoch before stopped until this one was ready to decide.",
        _switch_seconds("ready_ms"),
    ),
    _gauge(
        "policy_mode",
        "The policy's mode that is in force, counted from 0, the least robust. Absent: none of them, or no policy.",
        lambda scrape: scrape.policy.get("mode"),
    ),
    _gauge(
        "policy_streak",
        "So many judgements in a row wished for the same other mode.",
        lambda scrape: scrape.policy.get("streak"),
    ),
    _gauge(
        "policy_stall_limit_seconds",
        "A protocol that decides nothing for so long while requests wait is left by force. Absent without a policy.",
        lambda scrape: scrape.policy["stall_ms"] / 1000 if scrape.policy else None,
    ),
    _condition("wait_median_seconds", "waited_us", "Median time from a request's arrival to its execution.", 1e6),
    _condition(
        "wait_longest_seconds", "waited_most_us", "The longest time from a request's arrival to its execution.", 1e6
    ),
    _condition("oldest_wait_seconds", "oldest_us", "How long the oldest request that waits has waited.", 1e6),
    _condition("lateness_seconds", "lateness_us", "How much later than at their best others' reports came.", 1e6),
    _condition("window_seconds", "window_us", "The window in which conditions were measured.", 1e6),
    _condition("requests_arrived", "arrived", "Requests that arrived in the window."),
    _condition("requests_executed", "executed", "Requests that were executed in the window."),
    _condition("leader_changes_seen", "views", "Changes of leader in the window."),
    _condition("silent_members", "silent", "Members that were not heard in the window."),
    # -------------------------------------------------------------------------------- this interface
    Metric(
        "bftkit_admin_requests",
        "counter",
        "",
        "Answers of the HTTP interface by route, as its description names it, and status; `none`: refused at the door, "
        "or there is no such route.",
        _requests,
        ("route", "code"),
    ),
    _gauge("admin_streams", "Streams of events that are open.", lambda scrape: scrape.facade.feed.streams),
)

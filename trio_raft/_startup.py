"""The way in: recover the log, build one server on it, and listen.

All of this happens in the caller's task, before any service starts, so that a node that cannot start raises one plain
error.  Nothing on disk is changed by a refusal; the cut of a torn tail is announced.
"""

import errno
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from trio_raft._config import Config
from trio_raft._environment import Environment, Lane
from trio_raft._errors import ConfigurationError, LogCorrupt
from trio_raft._event_hub import EventHub
from trio_raft._events import MembersDiffer, TornTailCut
from trio_raft._first_start import FirstStart
from trio_raft._handshake import Handshake
from trio_raft._journal import Journal
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex
from trio_raft._rules.bootstrap import Bootstrap
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.state import State
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotIgnored
from trio_raft._snapshot_work import SnapshotWork
from trio_raft._snapshots import ServerSnapshots, configuration_of
from trio_raft.abc import (
    LogStore,
    Recovered,
    SnapshotsFound,
    SnapshotStore,
    StoredSnapshot,
    StoreIdentity,
    Transport,
)

TAIL_BYTES = 4 << 20
"""Of the newest entries that a start keeps in memory.  Memory fills with what comes; decoding much that may never be
asked for would make every start slower."""


@attrs.frozen
class Stores:
    """Where one server keeps what must survive."""

    log: LogStore[Any, Any, Any]
    snapshots: SnapshotStore

    def close(self) -> None:
        """Close both; whatever one of them raises, the other is closed."""
        try:
            self.snapshots.close()
        finally:
            self.log.close()


@attrs.frozen
class MachineAbilities:
    """What the way in has to know of the state machine."""

    snapshots: bool
    """Can its state be captured and restored?"""
    applied_index: LogIndex | None
    """What a machine with a disk of its own has applied, durably."""


async def recover(
    config: Config, stores: Stores, machine: MachineAbilities, transport: Transport, environment: Environment
) -> Server:
    """Open the stores and build the server on what they hold.

    Snapshots are looked for first, and without changing anything: which of them is whole decides how much of the log
    may be missing.  Raises what ``SnapshotStore.open`` and ``LogStore.open`` raise, SnapshotCorrupt where the log needs
    a snapshot that is damaged, and ConfigurationError if the state machine does not fit to them.  Cancelled: the
    caller closes the stores; recovery changes nothing but a torn tail and what was never finished.
    """
    identity = StoreIdentity(config.cluster_id, config.node_id, Incarnation(_draw_id(environment)))
    run_blocking = environment.run_blocking
    found = await run_blocking(Lane.SNAPSHOT, stores.snapshots.open, identity)
    _check_restore(config, machine, found.newest)
    recovered = await _open_log(config, stores, identity, found, environment)
    _check_applied(config, machine, recovered)
    bootstrap = _recovered_bootstrap(config, recovered)
    configuration = _configuration_in_force(bootstrap, found.newest)
    await run_blocking(Lane.SNAPSHOT, stores.snapshots.tidy)
    clock = environment.clock
    events = EventHub(
        config.node_id,
        stopwatch=clock.stopwatch,
        blocked_threshold=config.timeouts.loop_blocked_threshold,
    )
    _tell(events, config, found, recovered, configuration)
    journal = Journal(
        stores.log,
        environment,
        timeouts=config.timeouts,
        limits=config.limits,
        publish=events.publish,
        last_index=recovered.last_index,
    )
    if recovered.superseded:
        journal.save_snapshot(recovered.base, keep=False)
    elif recovered.base.index:
        # A crash may have come between a cut and the removal of its files.
        journal.compact(recovered.base.index)
    first_start = FirstStart(bootstrap, journal=journal, events=events)
    restore_index = _restore_index(machine, found.newest, recovered)
    state = _recovered_state(
        config,
        configuration,
        recovered,
        commit_index=_known_committed(machine, found.newest),
        last_applied=_applied(machine, restore_index),
    )
    handshake = Handshake(
        config=config,
        incarnation=recovered.incarnation,
        boot_id=_draw_id(environment),
        bootstrap_done=lambda: first_start.done,
        known_incarnation=first_start.known_incarnation,
        role=lambda: state.role.value,
    )
    server = Server(
        config,
        state,
        first_start,
        environment=environment,
        journal=journal,
        transport=transport,
        handshake=handshake,
        events=events,
        snapshots=ServerSnapshots(
            SnapshotWork(stores.snapshots, run_blocking),
            config.snapshots,
            state,
            newest=found.newest,
            restore_index=restore_index,
            supported=machine.snapshots,
            journal=journal,
            events=events,
        ),
    )
    environment.observe(server)
    return server


def _tell(events: EventHub, config: Config, found: SnapshotsFound, recovered: Recovered, stored: Configuration) -> None:
    """What recovery cut, what it found to differ from the settings, and what it passed over."""
    if recovered.cut_bytes:
        events.publish_finding(TornTailCut(recovered.cut_path, recovered.cut_bytes))
    if set(stored.members) != set(config.members):
        events.publish_finding(MembersDiffer(stored.members, tuple(sorted(config.members))))
    for damage in found.damaged:
        events.publish_finding(SnapshotIgnored(str(damage.path), damage.problem))
    for name in found.unfinished:
        events.publish_finding(SnapshotIgnored(name, "it was never finished"))


async def _open_log(
    config: Config, stores: Stores, identity: StoreIdentity, found: SnapshotsFound, environment: Environment
) -> Recovered:
    point = found.newest.point if found.newest is not None else None
    memory_bytes = min(config.limits.log_memory_bytes, TAIL_BYTES)
    open_log = partial(stores.log.open, identity, memory_bytes=memory_bytes, snapshot=point)
    try:
        recovered: Recovered = await environment.run_blocking(Lane.JOURNAL, open_log)
    except LogCorrupt as error:
        if found.damaged:
            # The log may be whole, and only lack what the damaged snapshot held: that is the one to mend.
            raise found.damaged[0] from error
        raise
    return recovered


def _check_restore(config: Config, machine: MachineAbilities, snapshot: StoredSnapshot | None) -> None:
    """Without ``restore`` the state that only a snapshot holds cannot be reached."""
    if snapshot is not None and not machine.snapshots:
        raise ConfigurationError(
            "data_directory", f"{config.data_directory} holds a snapshot, but the state machine defines no restore"
        )


def _check_applied(config: Config, machine: MachineAbilities, recovered: Recovered) -> None:
    """A state that cannot be reached from here is no state to start with (S8)."""
    applied = machine.applied_index or LogIndex(0)
    if applied > recovered.last_index:
        raise ConfigurationError(
            "data_directory",
            f"the state machine has applied entry {applied}, but the log in {config.data_directory} ends at "
            f"{recovered.last_index}: they are not of the same server, or one of them is an older copy. Put together "
            f"what belongs together",
        )


def _restore_index(machine: MachineAbilities, snapshot: StoredSnapshot | None, recovered: Recovered) -> LogIndex:
    """Up to where the state must come from a snapshot; 0 if what the machine has can be brought forward by the log."""
    if snapshot is None or (machine.applied_index is not None and machine.applied_index >= recovered.base.index):
        return LogIndex(0)
    return snapshot.point.index


def _known_committed(machine: MachineAbilities, snapshot: StoredSnapshot | None) -> LogIndex:
    """What a snapshot covers, or a machine has applied, was committed."""
    return max(snapshot.point.index if snapshot else LogIndex(0), machine.applied_index or LogIndex(0))


def _applied(machine: MachineAbilities, restore_index: LogIndex) -> LogIndex:
    return LogIndex(0) if restore_index else machine.applied_index or LogIndex(0)


def _recovered_bootstrap(config: Config, recovered: Recovered) -> Bootstrap:
    saved = recovered.bootstrap
    known = dict(saved.incarnations) if saved is not None else {}
    settled = saved is not None and saved.done
    if not settled:
        _check_still_named(config, known)
    return Bootstrap(
        own_id=config.node_id,
        own_incarnation=recovered.incarnation,
        # Once it is settled the log says who the members are; the file of settings only says where they are.
        members=frozenset(known if settled else config.members),
        incarnations=known,
        done=settled,
    )


def _configuration_in_force(bootstrap: Bootstrap, snapshot: StoredSnapshot | None) -> Configuration:
    """A snapshot brings its own (N6); without one it is still the first."""
    return Configuration(voters=tuple(bootstrap.members)) if snapshot is None else configuration_of(snapshot)


def _check_still_named(config: Config, known: Mapping[ServerId, Incarnation]) -> None:
    """A member that was met may have finished the first start already: it cannot be taken off the list any more.

    Were it forgotten here, it could elect with the old list and the others with the new one, both with a majority.
    """
    gone = ", ".join(sorted(member for member in known if member not in config.members))
    if gone:
        raise ConfigurationError(
            "members",
            f"the first start is not over, and {config.node_id} has met {gone}, whom the list does not name any more. "
            f"Put {gone} back on the list, or begin anew with empty data directories on all members",
        )


def _recovered_state(
    config: Config,
    configuration: Configuration,
    recovered: Recovered,
    *,
    commit_index: LogIndex,
    last_applied: LogIndex,
) -> State:
    log = Log.recovered(
        base_index=recovered.base.index,
        base_term=recovered.base.term,
        term_runs=recovered.term_runs,
        last_index=recovered.last_index,
        tail=recovered.tail,
        memory_bytes=config.limits.log_memory_bytes,
    )
    return State(
        node_id=config.node_id,
        log=log,
        configuration=configuration,
        current_term=recovered.term,
        voted_for=recovered.voted_for,
        commit_index=commit_index,
        last_applied=last_applied,
    )


def _draw_id(environment: Environment) -> str:
    """64 bits in hexadecimal, for incarnations and boot ids."""
    return f"{environment.random.getrandbits(64):016x}"


async def listen(config: Config, transport: Transport) -> Sequence[trio.abc.Listener[Any]]:
    """Bind this node's address.  Raises ConfigurationError if that fails, with what to do about it."""
    address = config.listen_address
    try:
        return await transport.listen(address)
    except OSError as error:
        problem = f"cannot listen on {address}: {error.strerror or error}. {_listen_advice(config, error)}"
        raise ConfigurationError("listen", problem) from error


def _listen_advice(config: Config, error: OSError) -> str:
    """The next step, as far as the operating system's number says."""
    setting = "listen" if config.listen else f"members.{config.node_id}"
    if isinstance(error, socket.gaierror) or isinstance(error.__cause__, UnicodeError):
        # Its numbers are not those of errno, and on some systems mean something else there.
        if error.errno == socket.EAI_AGAIN:
            return "The name server did not answer: try again, or give the host as a number"
        return f"Correct the host in {setting}, or give it as a number"
    match error.errno:
        case errno.EADDRINUSE:
            return "Stop the program that holds the address, or choose another one"
        case errno.EADDRNOTAVAIL:
            return (
                f"No interface of this machine has that address: correct {setting}, or, if the peers reach this "
                f"machine by an address that is not its own, set listen to one that is, for example 0.0.0.0:7000"
            )
        case errno.EACCES | errno.EPERM:
            return "This user may not bind it: choose a port above 1023, or give the program the right to"
        case errno.EAFNOSUPPORT:
            return f"This machine does not speak that kind of address, IPv4 or IPv6: choose the other in {setting}"
        case errno.EMFILE | errno.ENFILE:
            return "Raise the limit of open files, or close some"
        case _:
            return f"Correct {setting}"

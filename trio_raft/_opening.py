"""Opening and closing a node: ``open_node`` and ``serve_node``.

``open_node`` recovers log and snapshots and listens (``_startup.py``), and runs the services (``_services.py``) in a
nursery that the caller never sees.  What leaves its block: the user's exception as it is; or, if the node itself
failed, StorageError, LogCorrupt, SnapshotCorrupt, IncompatibleVersion or StateMachineError as itself, any other failure
as RaftInternalError, each ``from`` the group in which it was found, with the user's exception as its context;
KeyboardInterrupt and SystemExit bare.

House rule: nothing leaves before every service has ended.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from trio_raft._apply import Applier, command_type, defines_snapshots
from trio_raft._config import Config
from trio_raft._environment import Environment
from trio_raft._errors import ConfigurationError, StorageError, leaves
from trio_raft._lanes import ThreadLanes, real_environment
from trio_raft._node import Node
from trio_raft._services import Services
from trio_raft._startup import MachineAbilities, Stores, listen, recover
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft._storage.snapshots_memory import MemorySnapshotStore
from trio_raft._storage.wal import FileLogStore
from trio_raft._taking import Snapshotter
from trio_raft._tcp import TCPTransport
from trio_raft._values import ValueCodec
from trio_raft.abc import LogStore, SnapshotStore, StateMachine, Transport

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")


# Protected, but for the block itself: Ctrl-C between two steps of the way out would leave the services running, and the
# nursery waiting for them.  It is delivered where this waits.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    snapshot_store: SnapshotStore | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
) -> AsyncIterator["Node[CommandT, ResultT]"]:
    """Run a node for as long as the block lasts.

    Inside the block the log is recovered and the node listens; there need not be a leader yet (``wait_leader``).
    Leaving the block closes the node, in bounded time, and ends every task.

    Raises at the start, bare, with nothing changed on disk:  ConfigurationError, DirectoryInUse, DirectoryMismatch,
    LogCorrupt, IncompatibleVersion, StorageError, StorageFull; an address that is taken or not ours is a
    ConfigurationError too.  Later leaves: your exception, as it is; or, if the node itself failed, StorageError,
    LogCorrupt or StateMachineError, any other failure as RaftInternalError, with your exception as its context.  None
    of them in a group; those of ``serve_node`` come out of your own nursery.

    Cancelled: the node is closed at once.
    """
    codec: ValueCodec[CommandT] = ValueCodec(command_type(machine))
    abilities = MachineAbilities(defines_snapshots(machine), machine.applied_index())
    stores = _stores(config, log_store, snapshot_store, supported=abilities.snapshots)
    lanes: ThreadLanes | None = None
    try:
        if environment is None:
            lanes = _lanes(config)
            environment = real_environment(lanes)
        transport = transport or TCPTransport()
        server = await recover(config, stores, abilities, transport, environment)
        listeners = await listen(config, transport)
    except BaseException:
        try:
            stores.close()
        finally:
            _close(lanes)
        raise
    snapshotter = Snapshotter(server, machine)
    applier = Applier(server, machine, codec)
    services = Services(server, stores, listeners, apply=applier.run, take_snapshots=snapshotter.run)
    node = Node(server, services, machine, codec, snapshotter)
    body_error: BaseException | None = None
    async with trio.open_nursery() as hidden:
        body_scope = trio.CancelScope()
        hidden.start_soon(services.run, body_scope, name=f"node[{config.node_id}]")
        try:
            with body_scope:
                yield node
        except BaseException as error:
            # Kept until every service has ended; Cancelled too, which is raised again below.
            body_error = error
        interruption = await services.end()
        _close(lanes)
    leaving = _what_leaves(body_error, interruption, server.crash)
    if leaving is not None:
        raise leaving


def _lanes(config: Config) -> ThreadLanes:
    try:
        return ThreadLanes()
    except OSError as error:
        raise StorageError(config.data_directory, "preparing to read and write", str(error)) from error


def _close(lanes: ThreadLanes | None) -> None:
    if lanes is not None:
        lanes.close()


def _stores(
    config: Config, log: LogStore[Any, Any, Any] | None, snapshots: SnapshotStore | None, *, supported: bool
) -> Stores:
    """The files of the data directory, but for what the caller brings.

    Raises ConfigurationError if the log would outlive its snapshots, without which a log that was cut is of no use.
    """
    if log is not None:
        if snapshots is None and supported:
            raise ConfigurationError("", "with a log_store of your own, pass the snapshot_store that belongs to it")
        return Stores(log, snapshots or MemorySnapshotStore())
    limits = config.limits
    own = FileLogStore(
        config.data_directory, segment_bytes=limits.segment_bytes, longest_batch=limits.largest_journal_batch
    )
    return Stores(own, snapshots or FileSnapshotStore(config.data_directory, log_store=own))


def _what_leaves(
    body_error: BaseException | None, interruption: BaseException | None, crash: BaseException | None
) -> BaseException | None:
    """The one exception for the end of a block, its close and its node: Ctrl-C, else the crash, else the body's."""
    for error in (interruption, body_error):
        if error is not None and any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves(error)):
            return error
    return crash or body_error or interruption


async def serve_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    snapshot_store: SnapshotStore | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
    task_status: trio.TaskStatus["Node[CommandT, ResultT]"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """``open_node`` as a task: ``node = await nursery.start(serve_node, config, machine)``.

    Returns after ``node.aclose()``; raises what ``open_node`` raises.
    """
    async with open_node(
        config,
        machine,
        log_store=log_store,
        snapshot_store=snapshot_store,
        transport=transport,
        environment=environment,
    ) as node:
        task_status.started(node)
        await node.wait_closed()

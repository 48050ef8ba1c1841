"""The way in: recover the log, build one server on it, and listen.

All of this happens in the caller's task, before any service starts, so that a node that cannot start raises one plain
error.  Nothing on disk is changed by a refusal; the cut of a torn tail is announced.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trio

from trio_raft._config import Config
from trio_raft._environment import Environment, Lane
from trio_raft._errors import ConfigurationError
from trio_raft._events import EventHub, TornTailCut
from trio_raft._first_start import FirstStart
from trio_raft._handshake import Handshake
from trio_raft._journal import Journal
from trio_raft._messages import Incarnation, ServerId
from trio_raft._rules.bootstrap import Bootstrap
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.state import State
from trio_raft._server import Server
from trio_raft.abc import LogStore, Recovered, StoreIdentity, Transport


async def recover(
    config: Config, store: LogStore[Any, Any, Any], transport: Transport, environment: Environment
) -> Server:
    """Open the store and build the server on what it holds.

    Raises what ``LogStore.open`` raises.  Cancelled: the caller closes the store; recovery changes nothing but a torn
    tail.
    """
    identity = StoreIdentity(config.cluster_id, config.node_id, Incarnation(_draw_id(environment)))
    memory_bytes = config.limits.log_memory_bytes
    recovered: Recovered = await environment.run_blocking(
        Lane.JOURNAL, partial(store.open, identity, memory_bytes=memory_bytes)
    )
    clock = environment.clock
    events = EventHub(
        config.node_id,
        stopwatch=clock.stopwatch,
        blocked_threshold=config.timeouts.loop_blocked_threshold,
    )
    if recovered.cut_bytes:
        events.publish(TornTailCut(recovered.cut_path, recovered.cut_bytes))
    journal = Journal(
        store,
        environment,
        timeouts=config.timeouts,
        limits=config.limits,
        publish=events.publish,
        last_index=recovered.last_index,
    )
    bootstrap = _recovered_bootstrap(config, recovered)
    first_start = FirstStart(bootstrap, journal=journal, events=events)
    handshake = Handshake(
        config=config,
        incarnation=recovered.incarnation,
        boot_id=_draw_id(environment),
        bootstrap_done=lambda: first_start.done,
        known_incarnation=first_start.known_incarnation,
    )
    server = Server(
        config,
        _recovered_state(config, bootstrap, recovered),
        first_start,
        environment=environment,
        journal=journal,
        transport=transport,
        handshake=handshake,
        events=events,
    )
    environment.observe(server)
    return server


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


def _recovered_state(config: Config, bootstrap: Bootstrap, recovered: Recovered) -> State:
    log = Log.recovered(
        term_runs=recovered.term_runs,
        last_index=recovered.last_index,
        tail=recovered.tail,
        memory_bytes=config.limits.log_memory_bytes,
    )
    return State(
        node_id=config.node_id,
        log=log,
        configuration=Configuration(voters=tuple(bootstrap.members)),
        current_term=recovered.term,
        voted_for=recovered.voted_for,
    )


def _draw_id(environment: Environment) -> str:
    """64 bits in hexadecimal, for incarnations and boot ids."""
    return f"{environment.random.getrandbits(64):016x}"


async def listen(config: Config, transport: Transport) -> Sequence[trio.abc.Listener[Any]]:
    """Bind this node's address.  Raises ConfigurationError if it is taken or not ours."""
    try:
        return await transport.listen(config.listen_address)
    except OSError as error:
        raise ConfigurationError(
            "listen",
            f"cannot listen on {config.listen_address}: {error.strerror or error}. Stop the program that holds the "
            f"address, or choose another one",
        ) from error

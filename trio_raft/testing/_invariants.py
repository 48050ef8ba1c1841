"""The invariants of a simulated cluster, checked after every change of any server's state.

``Invariants.observe`` hangs a watch on each server that is built, ``watch_send`` sees each message before it leaves,
``watch_machine`` sees what a state machine is given.  The first violation is recorded with its rule, the virtual time,
the server, what was expected and what was seen; ``on_violation`` is called at once, to cancel the run; and
``raise_if_violated`` ends it with the seed.  A run in which something was violated cannot pass.

What is true does not rest on what a server says of itself:

* durable is what its disk would still hold if the power failed now (``_durable.py``),
* an entry is what the leader of its term first made of it (``_past.py``),
* a promise is what left (``_promises.py``).

Checked are: one leader in a term, ever; a majority of votes, and of pre-votes, behind him; leaders only append; logs
match, payload included; every leader has what was committed before; what is committed is the same everywhere, stays,
and is durable on a majority when it is committed; what a leader counts on is durable at its follower; term and vote in
a term never go back, restarts included; commit and applied index never fall; what is applied is committed and durable;
no message leaves before what it implies is durable; pre-votes change nothing; the configuration in force is the last in
the log; proposals end; a leader without a majority steps down; queues and tasks are bounded; nothing restarts for no
reason; and whatever a user adds.

House rule: a constant per change.  The exception is a new life, whose whole log is compared with its disk.

Reading order: this module; ``_past``; ``_watch``; ``_hooks`` and the three ``_watch_…``; ``_promises``.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import attrs
import trio

from trio_raft._environment import TrioClock
from trio_raft._errors import error_text
from trio_raft._events import Event
from trio_raft._messages import InstallSnapshot, Message, ServerId
from trio_raft._server import Server
from trio_raft.abc import Committed, SavedState, StateMachine
from trio_raft.testing._durable import DurableSource
from trio_raft.testing._hooks import MachineChecks, hang
from trio_raft.testing._image import Image
from trio_raft.testing._past import Past
from trio_raft.testing._promises import check_sent, note_offer
from trio_raft.testing._recovered import check_recovered
from trio_raft.testing._states import MakeMachine
from trio_raft.testing._trace import Trace, describe
from trio_raft.testing._verdict import Verdict, Violation
from trio_raft.testing._watch import Scene, Watch, Watched
from trio_raft.testing._watch_snapshots import Hashed

TASKS_PER_MEMBER = 48
"""Of a member by itself: its services, timers, and clients that wait for it."""

TASKS_PER_LINK = 48
"""Of two members, in one direction: replication, heartbeats, votes, and the connections that serve them, a few of which
may still wait for their ends to be noticed."""

UserInvariant = Callable[[Mapping[str, Any]], object]
"""Gets the state machine of each running member; fails by raising, or by returning False."""


class Invariants:
    """Of one run."""

    def __init__(
        self,
        seed: int | str,
        *,
        fault_explains: Callable[[str, Event], bool] | None = None,
        trace: Trace | None = None,
        now: Callable[[], float] | None = None,
        make_machine: MakeMachine | None = None,
    ) -> None:
        """``fault_explains(node_id, event)``: was something injected that makes this event right?

        Nothing was, unless it is given.  ``now`` is the run's virtual time, Trio's unless given.  ``make_machine``
        makes another state machine, to compare captured states with; unless given they are not compared.
        """
        now = now or TrioClock().now
        self.trace = trace or Trace(now=now)
        """What happened, for a person; and its digest."""
        self._verdict = Verdict(seed, self.trace, now=now)
        self._scene = Scene(
            Past(self._verdict), self._verdict, self.trace, fault_explains or _nothing_explains, make_machine
        )
        self._machines: dict[str, Any] = {}
        self._checks: dict[str, MachineChecks] = {}
        self._added: list[UserInvariant] = []

    # ------------------------------------------------------------------------------------ the verdict

    @property
    def violation(self) -> Violation | None:
        """The first one that was found."""
        return self._verdict.violation

    @property
    def on_violation(self) -> Callable[[], None]:
        """Called in the step in which the first violation is found."""
        return self._verdict.on_violation

    @on_violation.setter
    def on_violation(self, call: Callable[[], None]) -> None:
        self._verdict.on_violation = call

    def raise_if_violated(self) -> None:
        """Raises InvariantViolation, which names the seed."""
        self._verdict.raise_if_violated()

    def fail(self, rule: str, node_id: str, *, expected: str, seen: str) -> None:
        """Record a violation that somebody else found."""
        self._verdict.fail(rule, node_id, expected=expected, seen=seen)

    def committed_term(self, index: int) -> int | None:
        """The term of the committed entry there; None if none is known."""
        committed = self._scene.past.committed
        return committed[index].term if 0 <= index < len(committed) else None

    @property
    def past(self) -> Past:
        """What no server may contradict any more."""
        return self._scene.past

    # ------------------------------------------------------------------------------------ lives

    def observe(self, node_id: str, source: DurableSource) -> Callable[[Server], None]:
        """For ``Environment.observe``: watches the next life of this server.  ``source`` is its disk in that life."""
        return partial(self._begin, node_id, source)

    def _begin(self, node_id: str, source: DurableSource, server: Server) -> None:
        self._verdict.guard(node_id, partial(self._watch, node_id, source, server))

    def _watch(self, node_id: str, source: DurableSource, server: Server) -> None:
        watched = self._watched(node_id)
        if watched.watch is not None:
            watched.watch.over = True
        watched.lives += 1
        image = Image(node_id, source, self._scene.past, self._verdict, first=not watched.images)
        image.refresh()
        before = watched.images[-1] if len(watched.images) > watched.taken_away else None
        if before is not None and before.incarnation != image.incarnation:
            # Another directory: what the old one held was given up by whoever exchanged it.
            watched.take_away()
            before = None
        watched.images.append(image)
        watched.watch = watch = Watch(self._scene, watched, server, image)
        watch.note(f"life {watch.life} begins: term {image.term}, vote {image.voted_for}, log {image.slots[-1]}")
        check_recovered(watch, before)
        self._checks[node_id] = hang(watch)

    def _watched(self, node_id: str) -> Watched:
        return self._scene.servers.setdefault(ServerId(node_id), Watched(ServerId(node_id)))

    def exchanged(self, node_id: str) -> None:
        """This server's disk was exchanged for an older copy, or an empty one: what it held is no longer expected."""
        watched = self._watched(node_id)
        if watched.images:
            watched.images[-1].refresh()
        watched.take_away()
        self.trace.note(node_id, "its disk is exchanged")

    def ended(self, node_id: str) -> None:
        """The power of this server fails now: what its tasks do from here on reaches nobody."""
        watched = self._watched(node_id)
        if watched.watch is not None and not watched.watch.over:
            watched.watch.over = True
            watched.watch.note(f"life {watched.watch.life} ends")
        self._machines.pop(node_id, None)

    def closed(self, node_id: str) -> None:
        """All tasks of this server have ended: each of its proposals must have come to an outcome."""
        self.ended(node_id)
        watch = self._watched(node_id).watch
        if watch is not None:
            self._verdict.guard(node_id, watch.check_tickets)

    # ------------------------------------------------------------------------------------ messages

    def watch_send(self, node_id: str, message: Message, receiver: str = "") -> None:
        """This server hands a message to its transport; ``receiver`` is empty for an answer."""
        watched = self._watched(node_id)
        watch = watched.watch
        if watch is not None and not watch.over:
            self.trace.note(node_id, f"sends {describe(message)}{f' to {receiver}' if receiver else ''}")
            self._verdict.guard(node_id, partial(check_sent, watched, watch, message))
            if isinstance(message, InstallSnapshot):
                note_offer(self._watched(receiver), message)

    # ------------------------------------------------------------------------------------ state machines

    def watch_machine(self, node_id: str, machine: StateMachine[Any, Any]) -> None:
        """Watch what the state machine of this server's next life is given; call it before the node is opened."""
        self._machines[node_id] = machine
        original, snapshot, restore = machine.apply, machine.snapshot, machine.restore

        def apply(entry: Committed[Any]) -> Any:
            self._verdict.guard(node_id, partial(self._given, node_id, machine, entry))
            result = original(entry)
            self._verdict.guard(node_id, partial(self._run_added, node_id, machine, entry.index))
            return result

        def watched_snapshot() -> Iterable[bytes]:
            pieces, checks = snapshot(), self._checks_of(node_id, machine)
            return pieces if checks is None else checks.snapshots.capture(type(machine), pieces)

        def watched_restore(state: SavedState) -> None:
            pieces = Hashed(iter(state))
            restore(attrs.evolve(state, pieces=iter(pieces)))
            checks = self._checks_of(node_id, machine)
            if checks is not None:
                self._verdict.guard(node_id, partial(checks.snapshots.restored, state, pieces.digest))
            self._verdict.guard(node_id, partial(self._run_added, node_id, machine, state.index))

        # Past any __setattr__ that the user's class may have.
        vars(machine).update(apply=apply, snapshot=watched_snapshot, restore=watched_restore)

    def _checks_of(self, node_id: str, machine: object) -> MachineChecks | None:
        """None if this machine's life is over."""
        return self._checks.get(node_id) if self._machines.get(node_id) is machine else None

    def _given(self, node_id: str, machine: object, entry: Committed[Any]) -> None:
        checks = self._checks_of(node_id, machine)
        if checks is not None:
            checks.commit.given(entry)

    def add(self, invariant: UserInvariant) -> None:
        """Call this with the state machine of each running member after each command that any of them has applied.

        It fails by raising (AssertionError, say), or by returning False.
        """
        self._added.append(invariant)

    def _run_added(self, node_id: str, machine: object, index: int) -> None:
        if self._machines.get(node_id) is not machine:
            return
        for invariant in self._added:
            try:
                answer = invariant(dict(self._machines))
                held, problem = answer is not False, "it returned False"
                if inspect.iscoroutine(answer):
                    # Never run, it would hold for ever.
                    answer.close()
                    held, problem = False, "it is an async function; only a synchronous one can be called here"
            except Exception as error:
                held, problem = False, error_text(error)
            if not held:
                name = getattr(invariant, "__name__", repr(type(invariant).__name__))
                self._verdict.fail(
                    f"The invariant {name} that you added",
                    node_id,
                    expected=f"that it holds once index {index} was applied",
                    seen=problem,
                )

    # ------------------------------------------------------------------------------------ from time to time

    def sweep(self) -> None:
        """Look at what no single change shows, lengths of queues and the number of tasks; once a second is enough."""
        for node_id, watched in self._scene.servers.items():
            if watched.watch is not None and not watched.watch.over:
                self._verdict.guard(node_id, watched.watch.check_bounds)
                self._verdict.guard(node_id, watched.watch.check_contact)
                self._verdict.guard(node_id, self._checks[node_id].snapshots.check_chain)
        size = max(len(self._scene.servers), 1)
        bound = TASKS_PER_MEMBER * size + TASKS_PER_LINK * size * (size - 1)
        tasks = count_tasks()
        if tasks > bound:
            self._verdict.fail("Everything is bounded", "", expected=f"tasks: at most {bound}", seen=f"{tasks}")

    def finish(self) -> None:
        """The run is over, and has been idle: no proposal may still be waiting.  Raises InvariantViolation."""
        for node_id, watched in self._scene.servers.items():
            if watched.watch is not None:
                self._verdict.guard(node_id, watched.watch.check_tickets)
        self.sweep()
        self.raise_if_violated()


def count_tasks() -> int:
    """All tasks of this Trio run."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    count = 0
    while waiting:
        task = waiting.pop()
        count += 1
        for nursery in task.child_nurseries:
            waiting += nursery.child_tasks
    return count


def _nothing_explains(node_id: str, event: Event) -> bool:  # noqa: ARG001
    return False

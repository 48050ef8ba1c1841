"""Ctrl-C may arrive between any two bytecodes; it must not leave a step of the server half done.

Every synchronous entry that changes state carries Trio's protection, which covers what it calls. The first test looks
at the source, so that a new entry is noticed; the others press Ctrl-C in the middle of a step.
"""

import ast
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import N2, command, connect, listen_for, make_server, settle
from trio_raft._apply import Applier
from trio_raft._messages import Heartbeat, Purpose
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import Committed, StateMachine
from trio_raft.testing._network import MemoryNetwork

PACKAGE = Path(__file__).parents[2] / "trio_raft"

CLASSES = {
    "_server.py": "Server",
    "_journal.py": "Journal",
    "_first_start.py": "FirstStart",
    "_apply.py": "Applier",
    "_snapshots.py": "ServerSnapshots",
    "_snapshot_work.py": "SnapshotWork",
    "_taking.py": "Snapshotter",
    "_receiving.py": "SnapshotService",
}

PROTECTION = "trio.lowlevel.enable_ki_protection"

WITHOUT = {
    "FirstStart.meet": "a single assignment",
    "Server.step_down": "does nothing but enter a protected step",
    "Server._note_installed": "called in the protected step of an install",
    "Server._note_durable": "called by the journal in a protected step",
    "ServerSnapshots.note_applied": "called in the protected step of an apply",
    "SnapshotWork.give_up": "a single step, which has happened or not; what is not noted the next start removes",
    "Snapshotter._answer": "of the snapshotter's own task, which an interrupt ends, and with it the node",
    "Snapshotter._capture": "of the snapshotter's own task; only the machine's code and an event",
    "SnapshotService.give_up": "what is not noted the next start removes",
    "SnapshotService._refuse_once": "of a connection's task, which an interrupt ends, and with it the node",
    "SnapshotService._fail": "of tasks of the node, which an interrupt ends, and with them the node",
    "SnapshotService._report": "only shown",
    "SnapshotService._publish": "only shown",
    "Journal.close": "sets a flag and wakes the writer; repeating it is harmless",
    "Journal._take": "of the journal's own task, which an interrupt ends, and with it the node",
    "Journal._count": "of the journal's own task",
    "Journal._note_full": "of the upkeep's own task, which an interrupt ends, and with it the node",
}
"""Methods that need no protection, with the reason."""


def methods(tree: ast.Module, class_name: str) -> dict[str, ast.FunctionDef]:
    """The synchronous methods of a class, those that only look (properties) and the constructor left out."""
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    return {
        node.name: node
        for node in found.body
        if isinstance(node, ast.FunctionDef)
        and node.name != "__init__"
        and not any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
    }


def is_protected(method: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == PROTECTION for decorator in method.decorator_list)


def changes_state(method: ast.FunctionDef) -> bool:
    """Does it assign to an attribute or an item, or call something for its effect?"""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [part for target in targets for part in ast.walk(target)]
            if any(isinstance(part, ast.Attribute | ast.Subscript) for part in flat):
                return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return True
    return False


def called_by(method: ast.FunctionDef) -> set[str]:
    """The methods of ``self`` that it calls."""
    return {
        node.func.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "self"
    }


def unprotected(source: str, class_name: str) -> Iterator[str]:
    """State-changing methods that neither are protected nor are only ever reached through one that is."""
    found = methods(ast.parse(source), class_name)
    covered = {name for name, method in found.items() if is_protected(method)}
    frontier = set(covered)
    while frontier:
        frontier = {name for caller in frontier for name in called_by(found[caller]) if name in found} - covered
        covered |= {name for name in frontier if name.startswith("_")}
    for name, method in found.items():
        if changes_state(method) and name not in covered and f"{class_name}.{name}" not in WITHOUT:
            yield f"{class_name}.{name}"


@pytest.mark.parametrize(("file", "class_name"), CLASSES.items())
def test_every_step_is_protected(file: str, class_name: str) -> None:
    """Every synchronous entry of server, journal, first start and applier that changes state is protected."""
    assert list(unprotected((PACKAGE / file).read_text(), class_name)) == []


def test_the_check_complains() -> None:
    """The check finds an entry without protection, and accepts a helper that only a protected entry calls."""
    source = """
class Server:
    @trio.lowlevel.enable_ki_protection
    def good(self): self._helper()
    def _helper(self): self.x = 1
    def bad(self): self.x, self.y = 1, 2
    def worse(self): self.things[1] = 2
    def _reached_by_nobody(self): self.lot.unpark_all()
    @property
    def looks(self): return self.x
    def computes(self): return self.x + 1
"""
    assert list(unprotected(source, "Server")) == ["Server.bad", "Server.worse", "Server._reached_by_nobody"]


def test_the_list_of_exceptions_is_true() -> None:
    """No entry of the list of exceptions has outlived its method."""
    for name in WITHOUT:
        class_name, _, method = name.partition(".")
        [file] = [file for file, known in CLASSES.items() if known == class_name]
        assert method in methods(ast.parse((PACKAGE / file).read_text()), class_name)


# ------------------------------------------------------------------------------------------- Ctrl-C in the middle


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class PressingMachine(StateMachine[bytes, int]):
    """Ctrl-C arrives inside its second ``apply``."""

    def __init__(self) -> None:
        self.applied = 0

    def apply(self, entry: Committed[bytes]) -> int:
        self.applied += 1
        if self.applied == 2:
            press_ctrl_c()
        return self.applied


def interrupted(steps: list[str]) -> None:
    """Run the body of a test whose Ctrl-C is delivered after the step, at the next checkpoint."""
    assert steps[-1] == "step done", steps


def test_ctrl_c_in_a_transition() -> None:
    """Ctrl-C in the middle of a transition is delivered after it: state, journal and waiters agree."""
    steps: list[str] = []
    servers: list[Server] = []

    async def main() -> None:
        server = await make_server()
        servers.append(server)
        save_vote = server.journal.save_vote

        def pressing(term: Term, voted_for: object) -> int:
            press_ctrl_c()
            return save_vote(term, None)

        server.journal.save_vote = pressing  # type: ignore[method-assign]
        server.transition(Term(5), Role.FOLLOWER, "the test says so")
        steps.append("step done")
        await settle()
        steps.append("not interrupted")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    interrupted(steps)
    assert (servers[0].state.current_term, servers[0].vote_position) == (5, 1)


def test_ctrl_c_in_an_answer() -> None:
    """Ctrl-C while a heartbeat is answered is delivered after the answer was made."""
    steps: list[str] = []

    async def main() -> None:
        server = await make_server(term=1)
        server.events.publish = lambda event: press_ctrl_c()  # type: ignore[method-assign]
        reply = server.answer_heartbeat(Heartbeat(Term(2), N2, 1))
        assert (reply.term, server.state.leader) == (2, N2)
        steps.append("step done")
        await settle()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    interrupted(steps)


def test_ctrl_c_in_the_journals_step() -> None:
    """Ctrl-C in the step in which a write became durable is delivered after everybody was told."""
    steps: list[str] = []

    async def main() -> None:
        server = await make_server(latency=0.0)
        told: list[int] = []

        def pressing() -> None:
            press_ctrl_c()
            told.append(server.journal.durable_index)

        server.journal.on_durable = pressing
        server.journal.append(command(1, 1))
        server.journal._note_durable(list(server.journal._queue))
        assert (server.journal.durable_index, server.journal.durable_position, told) == (1, 1, [1])
        steps.append("step done")
        await settle()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    interrupted(steps)


def test_ctrl_c_in_an_apply() -> None:
    """Ctrl-C inside the state machine is delivered after the batch: what was applied is noted as applied."""
    steps: list[str] = []

    async def main() -> None:
        server = await make_server(terms=[1, 1, 1], term=1)
        machine = PressingMachine()
        applier = Applier(server, machine, ValueCodec[bytes](bytes))
        log = server.state.log
        records = log.records(log.first_index, log.last_index, max_bytes=1000)
        assert records
        applier._apply_batch(records, Term(1))
        assert (machine.applied, server.state.last_applied) == (3, 3)
        steps.append("step done")
        await settle()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    interrupted(steps)


async def test_ctrl_c_cannot_part_a_ticket_from_its_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between noting who waits and waiting there is no room for Ctrl-C: waking a task that does not wait is fatal."""
    protected: list[bool] = []

    async def look(abort: object) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    monkeypatch.setattr(trio.lowlevel, "wait_task_rescheduled", look)
    await Ticket[int](LogIndex(1), Term(1)).wait()
    assert protected == [True]


async def test_ctrl_c_is_not_lost_where_a_connection_is_dropped(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Dropping a connection in a cancelled task raises no Cancelled: that would take the place of a Ctrl-C on its way
    through.
    """
    network = MemoryNetwork()
    server = await make_server(network=network)
    await listen_for(server, nursery)
    channel = await connect(network, server, Purpose.CONTROL)
    with pytest.raises(KeyboardInterrupt):
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                raise KeyboardInterrupt
            finally:
                await channel.drop()

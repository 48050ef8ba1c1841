"""The program around the node: its log handlers, and its Ctrl-C."""

import logging
from collections.abc import Iterator

import pytest
import trio

from tests.tasks.parts import lead_term, make_server, record
from trio_raft._events import RoleChanged
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._tickets import Ticket


class Broken(logging.Handler):
    """A log handler with a bug."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the handler's own bug")


@pytest.fixture
def broken_log() -> Iterator[None]:
    """Every line of the package's log goes to a broken handler."""
    handler, logger = Broken(), logging.getLogger("trio_raft")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def test_log_handler_that_fails(
    broken_log: None, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log handler that raises ends no transition midway and no node; its traceback is printed."""
    server = await make_server()
    recorder = record(server)
    woken = trio.Event()

    async def wait() -> None:
        await server.change_lot.park()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        lead_term(server, 2)
        await woken.wait()
    assert server.state.role is Role.LEADER
    assert [event.role for event in recorder.of(RoleChanged)][-1] == "leader"
    assert "the handler's own bug" in capsys.readouterr().err


async def test_ctrl_c_cannot_leave_a_ticket_that_wakes_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """From taking note of the waiting task to parking it, Ctrl-C is held back: the ticket would wake the task out of
    another wait later (X1).
    """
    seen: list[bool] = []
    current_task = trio.lowlevel.current_task

    def look() -> trio.lowlevel.Task:
        seen.append(trio.lowlevel.currently_ki_protected())
        return current_task()

    ticket: Ticket[int] = Ticket(LogIndex(1), Term(1))
    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:
            patch.setattr(trio.lowlevel, "current_task", look)
            nursery.start_soon(ticket.wait)
            await trio.testing.wait_all_tasks_blocked()
        ticket.resolve(1)
    assert seen
    assert all(seen)

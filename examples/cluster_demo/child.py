"""One child process as the controller sees it.

A child is in one of the conditions below; only ``run`` and the verbs change it::

    STOPPED ──run──▸ STARTING ──ready──▸ RUNNING ◂──resume── PAUSED
       ▴                                    │  └────pause──────▴
       └────────────── the process ends ────┴── (kill, or by itself)

House rule: a child may fall silent at any moment, so every question to it has a deadline, and whoever waits
is told at once when the child is paused or ends.
"""

import enum
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from .lines import Message, MessageSender, each_message

StreamT = TypeVar("StreamT")

STOP_SECONDS = 5.0
"""A thread may be inside a write to a slow disk; nobody waits longer for it."""

LOOK_AGAIN_SECONDS = 0.002


class NoAnswer(Exception):
    """The child did not answer: it was paused, it ended, or it took too long. What it did is not known."""


class DidNotStart(Exception):
    """A child ended, or said nothing, before it was ready."""


class Condition(enum.Enum):
    """What the process is doing, as far as the system is concerned."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"


@attrs.frozen(kw_only=True)
class Receiving:
    """A snapshot that a node is being sent."""

    index: int
    done: int
    """Bytes, as ``total``."""
    total: int
    bytes_per_second: float
    seconds_left: float | None


@attrs.frozen(kw_only=True)
class Status:
    """What a node last said about itself."""

    role: str
    term: int
    leader: str | None
    commit_index: int
    last_applied: int
    entries_applied: int
    """By this process, one by one; not what came with a snapshot."""
    why_no_leader: str
    lags: dict[str, int]
    """On a leader: how many entries each follower is known to lack."""
    contact_ages: dict[str, float | None]
    """On a leader: seconds since each follower last answered."""
    first_index: int
    """Of the log; what was before it only the snapshot has."""
    last_index: int
    """Of the log; ``first_index - 1`` if it is empty."""
    snapshot_index: int
    """Of the newest snapshot; 0 if there is none."""
    snapshots_taken: int
    """By this process; so is ``snapshots_installed``."""
    snapshots_installed: int
    receiving: Receiving | None
    restoring: bool
    """Whether the state waits for a snapshot that is being restored."""

    @classmethod
    def read(cls, message: Message) -> "Status":
        """From what the node sent."""
        receiving = message["receiving"]
        details: Message = {**message, "receiving": Receiving(**receiving) if receiving else None}
        return cls(**details)


@attrs.define(eq=False)
class _Question:
    resolved: trio.Event = attrs.field(factory=trio.Event)
    parts: list[list[Any]] = attrs.field(factory=list)
    answer: Message | None = None
    problem: str = ""


class Child:
    """One node's process, which may be started again after it ended."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        *,
        log: Path,
        on_change: Callable[[], None],
        on_event: Callable[[str], None],
    ) -> None:
        self.name = name
        self.log = log
        self.condition = Condition.STOPPED
        self.status: Status | None = None
        self.heard_at = 0.0
        """When the last message arrived, on Trio's clock."""
        self.crashes = 0
        """How often the process ended without being told to."""
        self.ended_by_itself = False
        """Whether that is how it ended the last time."""
        self._snapshots_before = (0, 0)
        """Taken and installed by the processes that have ended."""
        self._arguments = arguments
        self._on_change = on_change
        self._on_event = on_event
        self._killed = False
        self._process: trio.Process | None = None
        self._sender: MessageSender | None = None
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(1)
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the process and listen to it until it ends; "started" means that the node listens.

        Raises DidNotStart if it ends before that. However this ends, the process is dead and waited for.
        """
        process = await self._start()
        try:
            async for message in each_message(_pipe(process.stdout)):
                if "ready" in message:
                    self._become(Condition.RUNNING)
                    task_status.started()
                self._receive(message)
        finally:
            # A stopped process dies of SIGKILL too, so this is quick; and nothing may interrupt it.
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await _pipe(process.stdin).aclose()
                await _pipe(process.stdout).aclose()
            was_ready = self.condition is not Condition.STARTING
            self._end()
        if not was_ready:
            raise DidNotStart(f"{self.name} did not start: {self.last_words()}")
        if not self._killed:
            self.crashes += 1
            self.ended_by_itself = True
            self._on_event(f"{self.name} ended by itself, status {process.returncode}: {self.last_words()}")

    async def ask(self, message: Message, *, patience: float) -> tuple[Message, list[list[Any]]]:
        """Send a request; return the answer, and the rows of the parts that came before it.

        Waits up to ``patience`` seconds. Raises NoAnswer.
        """
        if self.condition is not Condition.RUNNING or self._sender is None:
            raise NoAnswer(f"{self.name} is {self.condition.value}")
        number = next(self._numbers)
        question = self._questions[number] = _Question()
        try:
            with trio.move_on_after(patience):
                await self._sender.send({"id": number, **message})
                await question.resolved.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Closed: it ended, and ``run`` closed the pipe, while this message waited for its turn.
            raise NoAnswer(f"{self.name} ended") from None
        finally:
            del self._questions[number]
        if question.answer is None:
            raise NoAnswer(question.problem or f"{self.name} did not answer within {patience:.1f} s")
        return question.answer, question.parts

    async def pause(self) -> None:
        """SIGSTOP: the process stands still, its connections stay open. Returns when all its threads have stopped.

        Only then does the system end it, with SIGHUP, should this process be killed: it cannot read the end of its
        input any more. A thread that is inside a write stops when that returns.
        """
        self._signal(signal.SIGSTOP)
        self._become(Condition.PAUSED)
        self._resolve_all(f"{self.name} was paused")
        with trio.move_on_after(STOP_SECONDS):
            # Trio waits for the end of a process only, so this has to look.
            while self._process is not None and not _has_stopped(self._process.pid):  # noqa: ASYNC110
                await trio.sleep(LOOK_AGAIN_SECONDS)

    def resume(self) -> None:
        """SIGCONT: the process goes on as if no time had passed."""
        self._signal(signal.SIGCONT)
        self._become(Condition.RUNNING)

    async def kill(self) -> None:
        """SIGKILL: the process is gone, and whatever it had not synced may be. Returns when it is dead."""
        self._killed = True
        self._signal(signal.SIGKILL)
        # Nothing more is asked of it from now on; what it has answered already is still read.
        self._become(Condition.STOPPED)
        await self._ended.wait()

    def snapshots(self) -> tuple[int, int]:
        """How many snapshots this node took, and how many it installed, over all its processes.

        What one did in the last moments before it was killed may be missing.
        """
        taken, installed = self._snapshots_before
        if self.status is not None:
            taken, installed = taken + self.status.snapshots_taken, installed + self.status.snapshots_installed
        return taken, installed

    def last_words(self) -> str:
        """The last line of the child's log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it left no message"

    async def _start(self) -> trio.Process:
        with self.log.open("ab") as log:
            self._killed = self.ended_by_itself = False
            self._ended = trio.Event()
            self._become(Condition.STARTING)
            # A process group of its own: the terminal's Ctrl-C is for the controller alone.
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", f"{__package__}.node", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _search_path()},
                process_group=0,
            )
        self._process, self._sender = process, MessageSender(_pipe(process.stdin))
        return process

    def _receive(self, message: Message) -> None:
        self.heard_at = trio.current_time()
        if "id" in message:
            question = self._questions.get(message["id"])
            if question is None:
                return  # nobody waits any more
            if "part" in message:
                question.parts.extend(message["part"])
            else:
                question.answer = message
                question.resolved.set()
        elif "status" in message:
            self.status = Status.read(message["status"])
            self._on_change()
        elif "event" in message:
            self._on_event(message["event"])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _become(self, condition: Condition) -> None:
        self.condition = condition
        self._on_change()

    def _end(self) -> None:
        self._snapshots_before = self.snapshots()
        self._process = self._sender = self.status = None
        self._become(Condition.STOPPED)
        self._resolve_all(f"{self.name} ended")
        self._ended.set()

    def _resolve_all(self, problem: str) -> None:
        for question in self._questions.values():
            question.problem = problem
            question.resolved.set()


def _has_stopped(pid: int) -> bool:
    """Whether a child of this process stands still, or is gone; asking leaves its state for others to wait for."""
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _pipe(stream: StreamT | None) -> StreamT:
    if stream is None:
        raise AssertionError("the process was opened with pipes for its input and output")
    return stream


def _search_path() -> str:
    """Where a child finds this package, then whatever the controller's own environment says."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))

"""Many seeds on all cores: one process for each core, each runs one seed after the other.

A run of the swarm is bound to one thread, and Trio's scheduler is seeded for a whole process; so the seeds are shared
out to processes, which speak in lines of JSON.  A process that dies, or does not come to an end, has failed its seed.

House rule: no process outlives this one.  Each is in a process group of its own, so that Ctrl-C reaches only us; each
is killed when its task ends, and ends by itself when its input does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

import attrs
import trio

from trio_raft._environment import TrioClock
from trio_raft.testing._environment import cpu_seconds
from trio_raft.testing._seed import SeedReport, run_seed
from trio_raft.testing._swarm import Wishes

CLOCK = TrioClock()
"""The real one."""

SEED_SECONDS = 600.0
"""Real seconds after which a run is taken for one that never ends."""

LINE_BYTES = 1 << 26
"""The longest report."""


@attrs.frozen(kw_only=True)
class Job:
    """One seed to run."""

    seed: int
    wishes: Wishes
    mutant: str | None = None


@attrs.frozen(kw_only=True)
class Done:
    """One seed that was run."""

    report: SeedReport
    real_seconds: float
    """What it took."""
    cpu_seconds: float = 0.0
    """What its process worked for it: the same, unless others use the machine too."""


def cores() -> int:
    """How many processes can work at the same time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def run_all(chains: Iterable[Iterable[Job]], *, processes: int, note: Callable[[Job, Done], bool]) -> None:
    """Run chains of jobs side by side, the jobs of each in order.

    ``note`` is told of each job as it ends; a chain is given up when it returns False.  Cancelled: the processes are
    killed.
    """
    waiting = iter(chains)

    async def work_off() -> None:
        async with WorkerProcess() as worker:
            for chain in waiting:
                for job in chain:
                    if not note(job, await worker.run(job)):
                        break

    async with trio.open_nursery() as nursery:
        for _ in range(processes):
            nursery.start_soon(work_off)


class WorkerProcess:
    """A process that runs one seed at a time; another one takes its place if it dies."""

    def __init__(self, *, seed_seconds: float = SEED_SECONDS) -> None:
        self._seed_seconds = seed_seconds
        self._process: trio.Process | None = None
        self._received = b""

    async def __aenter__(self) -> "WorkerProcess":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def run(self, job: Job) -> Done:
        """Run one job there.  A process that dies or hangs has failed it.  Cancelled: call nothing else but exit."""
        began = CLOCK.stopwatch()
        answer: bytes | None = None
        with CLOCK.move_on_after(self._seed_seconds) as patience:
            answer = await self._ask(json.dumps(attrs.asdict(job)))
        if answer is not None:
            return _structure(answer)
        status = await self._end()
        how = f"seed {job.seed}: the process that ran it ended with status {status}"
        if patience.cancelled_caught:
            how = f"seed {job.seed}: it did not end within {self._seed_seconds:g} real seconds"
        return _failed(job, how, CLOCK.stopwatch() - began)

    async def _ask(self, question: str) -> bytes | None:
        """The line that comes back; None if the process has died."""
        if self._process is None:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "trio_raft.testing", "work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            self._received = b""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("the process was opened with pipes")
        try:
            await stdin.send_all(question.encode() + b"\n")
            while b"\n" not in self._received:
                data = await stdout.receive_some()
                if not data or len(self._received) > LINE_BYTES:
                    return None
                self._received += data
        except trio.BrokenResourceError:
            return None
        line, _, self._received = self._received.partition(b"\n")
        return line

    async def _end(self) -> int | None:
        """Kill it, if there is one; returns its exit status."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        return None if process is None else process.returncode


def work(questions: TextIO, answers: TextIO) -> None:
    """What a worker process does: run what comes in, line by line, until the input ends."""
    for line in questions:
        job = _structure_job(line)
        began, worked = CLOCK.stopwatch(), cpu_seconds()
        try:
            report = run_seed(job.seed, wishes=job.wishes, mutant=job.mutant)
            done = Done(
                report=report,
                real_seconds=CLOCK.stopwatch() - began,
                cpu_seconds=cpu_seconds() - worked,
            )
        except ValueError as error:
            # Another seed drew a smaller cluster than the one on which the wishes were tried.
            done = _failed(job, str(error), CLOCK.stopwatch() - began)
        answers.write(json.dumps(attrs.asdict(done)) + "\n")
        answers.flush()


def _structure_job(line: str) -> Job:
    job: dict[str, Any] = json.loads(line)
    wishes = dict(job["wishes"])
    wishes["faults"] = None if wishes["faults"] is None else tuple(wishes["faults"])
    return Job(seed=job["seed"], wishes=Wishes(**wishes), mutant=job["mutant"])


def _structure(line: bytes) -> Done:
    answer: dict[str, Any] = json.loads(line)
    report = dict(answer["report"])
    report["trace"] = tuple(report["trace"])
    return Done(report=SeedReport(**report), real_seconds=answer["real_seconds"], cpu_seconds=answer["cpu_seconds"])


def _failed(job: Job, violation: str, real_seconds: float) -> Done:
    counts: Mapping[str, int] = {}
    report = SeedReport(
        seed=job.seed,
        ok=False,
        violation=violation,
        judged=False,
        trace_hash="",
        virtual_seconds=0.0,
        counts=counts,
    )
    return Done(report=report, real_seconds=real_seconds)

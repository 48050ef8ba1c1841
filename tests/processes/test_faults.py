"""Real processes, sockets and disks: killed, interrupted, stopped and continued under write load."""

import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from tests.processes.crew import Crew, crew

pytestmark = pytest.mark.processes

KILLS = 6
INTERRUPTS = 6
PAUSES = 3


async def test_kill_loop(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """However often a node is killed under load, no acknowledged write is lost or applied twice, and all nodes hold the
    same (S1, X1).
    """
    chance = random.Random(request.config.option.schedule_seed)
    async with crew(tmp_path) as found:
        async with trio.open_nursery() as nursery:
            for node_id in found.ids:
                nursery.start_soon(found.start, node_id)
        for round_number in range(KILLS):
            await found.more_writes(30)
            victim = found.leader() if round_number % 2 else chance.choice(found.ids)
            await found.kill(victim)
            await found.more_writes(30)
            await found.start(victim)
        await found.more_writes(30)
        for node_id in found.ids:
            await found.kill(node_id)
        commands = await found.judge()
        assert len(commands) >= 30 * (2 * KILLS + 1)


async def test_ctrl_c_under_load(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Ctrl-C at any moment of three nodes under load ends the program in order; the logs open again and agree
    (X2, S1).
    """
    chance = random.Random(request.config.option.schedule_seed)
    everybody = "n1,n2,n3"
    async with crew(tmp_path) as found:
        for round_number in range(INTERRUPTS):
            await found.start(everybody)
            if round_number:
                await found.more_writes(chance.randrange(1, 60))
            before = len(found.lines)
            assert await found.end(everybody, signal.SIGINT) == 0, found.errors
            await found.until(lambda before=before: found.said(everybody, "interrupted", since=before))  # type: ignore[misc]
            # Warnings are in order: the nodes close one after the other, and where Ctrl-C hits a coroutine that was
            # made and not yet awaited Python says so.
            assert not re.search(rb"Traceback|ERROR", found.errors[everybody])
        await found.judge()


async def test_stop_and_continue(tmp_path: Path) -> None:
    """A follower that was stopped while heartbeats waited in its socket does not campaign when it goes on (E10, K2)."""
    async with crew(tmp_path) as found:
        async with trio.open_nursery() as nursery:
            for node_id in found.ids:
                nursery.start_soon(found.start, node_id)
        await found.more_writes(10)
        for _ in range(PAUSES):
            await pause_a_follower(found)


async def pause_a_follower(found: Crew) -> None:
    leader = found.leader()
    follower = next(node_id for node_id in found.ids if node_id != leader)
    before = len(found.lines)
    applied = len(found.said(follower, "applied"))
    found.processes[follower].send_signal(signal.SIGSTOP)
    # Longer than its patience with a silent leader can be: the leader has noticed, and has tried it again and again.
    await found.until(lambda: found.said(leader, "lost", follower, since=before))
    lost = len(found.lines)
    await found.more_writes(100)
    stopped_until = trio.current_time() + 0.7
    while trio.current_time() < stopped_until:
        await found.more_writes(10)
    found.processes[follower].send_signal(signal.SIGCONT)
    await found.until(lambda: found.said(leader, "resumed", follower, since=lost))
    await found.until(lambda: len(found.said(follower, "applied")) > applied + 5)
    assert found.said(follower, "role", since=before) == []
    assert found.said(leader, "role", since=before) == []


# ------------------------------------------------------------------------------------------- syncs


def why_no_strace() -> str:
    """Empty if strace is there and may trace."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], check=False, capture_output=True)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.decode().strip()}"


async def syncs_of(directory: Path, writes: int) -> tuple[int, int]:
    """(journal batches, syncs of the file that the journal writes to) of a single node that makes so many writes."""
    directory.mkdir()
    trace = directory / "trace"
    async with crew(directory, size=1) as found:
        strace = ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync", "-o", str(trace)]
        process = await found.start("n1", "--writes", str(writes), wrapper=strace)
        await found.until(lambda: found.said("n1", "wrote"))
        [[_, batches]] = found.said("n1", "wrote")
        assert process.stdin is not None
        await process.stdin.aclose()
        await process.wait()
    calls = re.findall(r"(?:fdatasync|fsync)\(\d+<([^>]*)>", trace.read_text())
    segments = sorted({path for path in calls if Path(path).is_file()})
    return int(batches), calls.count(segments[0])


async def test_one_sync_per_batch(tmp_path: Path) -> None:
    """Each batch of the journal costs exactly one sync; making the file cost the rest, however many batches follow
    (S1).
    """
    reason = why_no_strace()
    if reason:
        pytest.skip(reason)
    few_batches, few_syncs = await syncs_of(tmp_path / "few", 5)
    many_batches, many_syncs = await syncs_of(tmp_path / "many", 45)
    assert many_batches - few_batches == 40
    assert many_syncs - few_syncs == 40

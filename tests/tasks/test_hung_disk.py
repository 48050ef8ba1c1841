"""A write that hangs in the operating system: closing is bounded, and the directory stays locked until it returns."""

import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

import trio_raft
from tests.tasks.leftovers import descriptors_now, nothing_left
from trio_raft import Committed, FileLogStore, FileSnapshotStore, SavedState, Timeouts, open_node
from trio_raft._config import KIBIBYTE
from trio_raft._errors import DirectoryInUse
from trio_raft._services import LAST_CLEAN_UP
from trio_raft._storage.files import OsFiles
from trio_raft._storage.segments import Upkeep

CLOSE_TIMEOUT = 0.1

PATIENCE = 30.0
"""For anything that another thread has to do."""


class Machine(trio_raft.StateMachine[bytes, int]):
    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, entry: Committed[bytes]) -> int:
        self.commands.append(entry.command)
        return len(self.commands)


class HangingFiles(OsFiles):
    """The real files, whose sync can be made to hang."""

    def __init__(self) -> None:
        self.hangs = False
        self.hanging = threading.Event()
        self.go = threading.Event()
        self.returned = threading.Event()

    def sync(self, descriptor: int) -> None:
        if not self.hangs:
            super().sync(descriptor)
            return
        self.hanging.set()
        self.go.wait(PATIENCE)
        super().sync(descriptor)
        self.returned.set()


def make_config(directory: Path) -> trio_raft.Config:
    nobody_dials = {"n1": "127.0.0.1:1"}
    quick = Timeouts(
        heartbeat_timeout=0.05,
        election_timeout=0.05,
        leader_lease_timeout=0.05,
        commit_timeout=0.05,
        close_timeout=CLOSE_TIMEOUT,
    )
    return trio_raft.Config(
        node_id="n1",
        cluster_id="tests",
        members=nobody_dials,
        listen="127.0.0.1:0",
        data_directory=directory / "n1",
        timeouts=quick,
    )


def make_store(config: trio_raft.Config, files: OsFiles) -> FileLogStore:
    return FileLogStore(
        config.data_directory, segment_bytes=16 * 1024 * KIBIBYTE, longest_batch=12 * 1024 * KIBIBYTE, files=files
    )


@pytest.mark.parametrize("forced", [False, True])
async def test_close_with_a_hung_sync(forced: bool, tmp_path: Path) -> None:
    """A sync that hangs delays closing by ``close_timeout`` at most, and holds the directory until it returns; then
    everything that it wrote is whole, and nothing is left (S10, X2).
    """
    config, files = make_config(tmp_path), HangingFiles()
    with nothing_left():
        began = trio.current_time()
        with trio.CancelScope() as outer:
            async with open_node(config, Machine(), log_store=make_store(config, files)) as node:
                await node.wait_leader()
                assert await node.propose(b"a") == 1
                files.hangs = True
                node.submit_nowait(b"b")
                await trio.to_thread.run_sync(files.hanging.wait, PATIENCE)
                began = trio.current_time()
                if forced:
                    outer.cancel()
        took = trio.current_time() - began
        assert took < PATIENCE / 2
        assert took >= (0 if forced else CLOSE_TIMEOUT)
        assert not files.returned.is_set()
        # The write that has not returned holds the directory.
        with pytest.raises(DirectoryInUse, match="write"):
            async with open_node(config, Machine()):
                raise AssertionError("the body must not run")
        files.go.set()
        await trio.to_thread.run_sync(files.returned.wait, PATIENCE)
        with trio.fail_after(PATIENCE):
            while any(str(config.data_directory) in name for name in descriptors_now().values()):
                await trio.lowlevel.checkpoint()
        machine = Machine()
        async with open_node(config, machine) as node:
            await node.wait_leader()
            await node.barrier()
            # Its outcome was unknown; it did reach the disk.
            assert machine.commands == [b"a", b"b"]


async def test_close_waits_for_the_upkeep_in_hand(tmp_path: Path) -> None:
    """Preparation of log space that is in hand is waited for as a write is: no longer than ``close_timeout``
    (X2, S10).
    """
    config, files = make_config(tmp_path), HangingFiles()
    store = make_store(config, files)
    run_slice = store.execute_upkeep

    def hanging_upkeep(upkeep: Upkeep) -> None:
        files.hanging.set()
        files.go.wait(PATIENCE)
        run_slice(upkeep)

    store.execute_upkeep = hanging_upkeep  # type: ignore[method-assign]
    async with open_node(config, Machine(), log_store=store) as node:
        await node.wait_leader()
        await trio.to_thread.run_sync(files.hanging.wait, PATIENCE)
        began = trio.current_time()
        await node.aclose()
        assert CLOSE_TIMEOUT <= trio.current_time() - began < PATIENCE / 2
    files.go.set()


async def test_directory_is_free_after_a_clean_close(tmp_path: Path) -> None:
    """Open, close, open again: no lock, descriptor or task is left, and the state is back (X2, S10)."""
    config = make_config(tmp_path)
    with nothing_left():
        for life in range(3):
            machine = Machine()
            async with open_node(config, machine) as node:
                await node.wait_leader()
                await node.barrier()
                assert machine.commands == [b"%d" % number for number in range(life)]
                await node.propose(b"%d" % life)


async def test_directory_in_use_by_a_running_node(tmp_path: Path) -> None:
    """Two nodes of one process cannot share a directory; the first one is not disturbed (S10)."""
    config = make_config(tmp_path)
    async with open_node(config, Machine()) as node:
        await node.wait_leader()
        with pytest.raises(DirectoryInUse):
            async with open_node(config, Machine()):
                raise AssertionError("the body must not run")
        assert await node.propose(b"a") == 1


# ------------------------------------------------------------------------------------------- snapshots


class Saved(Machine):
    """One that can be saved."""

    def snapshot(self) -> list[bytes]:
        return [b"%d" % len(self.commands)]

    def restore(self, state: SavedState) -> None:
        self.commands = [b"?"] * int(b"".join(state))


@pytest.mark.parametrize("forced", [False, True])
async def test_close_with_a_hung_snapshot(forced: bool, tmp_path: Path) -> None:
    """A snapshot whose sync hangs delays closing by ``close_timeout`` at most, and not at all if it is to end at once;
    when it returns nothing of it is left but a name that the next start removes (S10, X2).
    """
    config, files = make_config(tmp_path), HangingFiles()
    snapshots = FileSnapshotStore(config.data_directory, files=files)
    with nothing_left():
        began = trio.current_time()
        with trio.CancelScope() as outer:
            async with open_node(config, Saved(), snapshot_store=snapshots) as node:
                await node.wait_leader()
                await node.propose(b"a")
                files.hangs = True
                with trio.move_on_after(0.1):
                    await node.snapshot()
                assert files.hanging.is_set()
                began = trio.current_time()
                if forced:
                    outer.cancel()
        took = trio.current_time() - began
        assert (0 if forced else CLOSE_TIMEOUT) <= took < (LAST_CLEAN_UP if forced else 0) + 1.9 * CLOSE_TIMEOUT + 0.2
        assert not files.returned.is_set()
        files.go.set()
        await trio.to_thread.run_sync(files.returned.wait, PATIENCE)
        with trio.fail_after(PATIENCE):
            while any(str(config.data_directory) in name for name in descriptors_now().values()):
                await trio.lowlevel.checkpoint()
        files.hangs = False
        async with open_node(config, Saved()) as node:
            await node.wait_leader()
            await node.barrier()
            assert not list(config.data_directory.glob("*.partial"))
            assert (await node.snapshot()).point.index >= 2


async def test_hung_snapshot_keeps_the_lock(tmp_path: Path) -> None:
    """A snapshot's sync that outlives the node keeps the directory locked until it returns, as a log's does: it may
    still rename a file, beside the next node (S10).
    """
    config, files = make_config(tmp_path), HangingFiles()
    log = FileLogStore(config.data_directory, segment_bytes=config.limits.segment_bytes)
    snapshots = FileSnapshotStore(config.data_directory, files=files, log_store=log)
    with nothing_left():
        async with open_node(config, Saved(), log_store=log, snapshot_store=snapshots) as node:
            await node.wait_leader()
            await node.propose(b"a")
            files.hangs = True
            with trio.move_on_after(0.1):
                await node.snapshot()
            assert files.hanging.is_set()
        assert not files.returned.is_set()
        with pytest.raises(DirectoryInUse, match="a write of the previous node has not returned"):
            async with open_node(config, Saved()):
                raise AssertionError("the body must not run")
        files.go.set()
        with trio.fail_after(PATIENCE):
            while any(str(config.data_directory) in name for name in descriptors_now().values()):
                await trio.lowlevel.checkpoint()
        async with open_node(config, Saved()) as node:
            await node.wait_leader()
            await node.barrier()


@pytest.mark.parametrize("forced", [False, True])
async def test_close_in_the_middle_of_a_snapshot(forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing while a snapshot is written leaves no file that was never finished, in order or at once (X2)."""
    # This machine may be busy, and the thread take its time.
    monkeypatch.setattr("trio_raft._services.LAST_CLEAN_UP", PATIENCE)
    config = make_config(tmp_path)
    config = attrs.evolve(config, timeouts=attrs.evolve(config.timeouts, close_timeout=PATIENCE))
    writing = threading.Event()

    class Endless(Saved):
        def snapshot(self) -> Iterator[bytes]:  # type: ignore[override]
            while True:
                writing.set()
                yield bytes(1 << 16)

    with nothing_left():
        before = descriptors_now()
        with trio.CancelScope() as outer:
            async with open_node(config, Endless()) as node, trio.open_nursery() as nursery:
                await node.wait_leader()
                await node.propose(b"a")
                nursery.start_soon(node.snapshot)
                await trio.to_thread.run_sync(writing.wait, PATIENCE)
                assert list(config.data_directory.glob("*.partial"))
                if forced:
                    outer.cancel()
                else:
                    nursery.cancel_scope.cancel()
        # At once means without the threads, the one that prepares a segment, say: each closes its files as it ends, and
        # then the bell that it rings.
        with trio.fail_after(PATIENCE if forced else 0):
            while any(before.get(number) != name for number, name in descriptors_now().items()):
                await trio.lowlevel.checkpoint()
    assert not list(config.data_directory.glob("*.partial"))
    assert not list(config.data_directory.glob("*.snapshot"))

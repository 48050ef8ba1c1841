"""The snapshot stores pass the conformance suite, and stores with a fault do not."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from trio_raft import FileSnapshotStore, MemorySnapshotStore
from trio_raft.abc import SnapshotMeta, SnapshotsFound, SnapshotStore, SnapshotWriter, StoredSnapshot, StoreIdentity
from trio_raft.testing import NotConforming, SimDisk, SnapshotStoreConformance

MakeStore = Callable[[], SnapshotStore]


class TestFileSnapshotStore(SnapshotStoreConformance):
    """The store that nodes use, on real files."""

    @pytest.fixture
    def make_snapshot_store(self, tmp_path: Path) -> MakeStore:
        return lambda: FileSnapshotStore(tmp_path)


class TestFileSnapshotStoreOnSimDisk(SnapshotStoreConformance):
    """The same, on the simulated disk."""

    largest_state = 1 << 20

    @pytest.fixture
    def make_snapshot_store(self) -> MakeStore:
        disk = SimDisk()
        return lambda: FileSnapshotStore("/data", files=disk)


class TestMemorySnapshotStore(SnapshotStoreConformance):
    """The store for tests."""

    @pytest.fixture
    def make_snapshot_store(self) -> MakeStore:
        store = MemorySnapshotStore()
        return lambda: store


class FindsTheLastOne(MemorySnapshotStore):
    """Takes what was stored last for the newest."""

    def open(self, identity: StoreIdentity) -> SnapshotsFound:
        super().open(identity)
        kept = list(self._kept.values())
        return SnapshotsFound(kept[-1].snapshot if kept else None)


class SeesTheUnfinished(MemorySnapshotStore):
    """A snapshot is visible from the moment it is begun."""

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        super().begin(meta).finish()
        return super().begin(meta)


class KeepsOneMore(MemorySnapshotStore):
    """Removes one too few."""

    def retain(self, keep: int) -> None:
        super().retain(keep + 1)


class ForgetsTheVersion(MemorySnapshotStore):
    """Finds another header than the one that was written."""

    def _keep(self, snapshot: StoredSnapshot, data: bytes) -> None:
        super()._keep(attrs.evolve(snapshot, meta=attrs.evolve(snapshot.meta, state_version=1)), data)


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (FindsTheLastOne, "test_newest_by_term_then_index"),
        (SeesTheUnfinished, "test_unfinished_is_not_found"),
        (KeepsOneMore, "test_retain"),
        (ForgetsTheVersion, "test_finished_is_found"),
    ],
)
def test_snapshot_store_suite_complains(store: type[MemorySnapshotStore], test: str) -> None:
    """A snapshot store that breaks its contract fails the test of that sentence."""
    suite = type("Suite", (SnapshotStoreConformance,), {"largest_state": 2000})()
    kept = store()
    with pytest.raises(NotConforming):
        getattr(suite, test)(lambda: kept)

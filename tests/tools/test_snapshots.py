"""``snapshot inspect``, ``verify`` and ``save``: what is reported, what is copied, and what is refused."""

import errno
import os
from pathlib import Path

import pytest

from tests.tools.faults import FailingFiles, Killed
from tests.tools.support import MEMBERS, add_snapshot, change, contents, flip, simple_directory, with_node
from trio_raft import recovery
from trio_raft._errors import (
    ConfigurationError,
    IncompatibleVersion,
    RecoveryRefused,
    SnapshotCorrupt,
    StorageError,
    StorageFull,
)
from trio_raft._storage import snapshot_format
from trio_raft._storage.files import OsFiles
from trio_raft._storage.snapshot_format import HEADER, PIECE
from trio_raft._tools.snapshots import save_newest


def directory_with_two(parent: Path) -> Path:
    """A data directory with snapshots up to 4 and up to 6."""
    directory = simple_directory(parent / "n1")
    add_snapshot(directory, 4, 1, b"older")
    add_snapshot(directory, 6, 1, b"newer", b"!")
    return directory


def path_of(directory: Path, index: int) -> Path:
    return directory / f"snapshot-{1:016d}-{index:016d}.snapshot"


# ------------------------------------------------------------------------------------ looking


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("lock",), ("snapshot-4.snapshot",)])
def test_directory_of_no_node_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Where there is neither a log nor a snapshot nothing is well: both inspectors and the copy say so."""
    for name in names:
        (tmp_path / name).write_bytes(b"something")
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match="is no node's data directory: it holds neither a log nor a snapshot"):
        recovery.inspect_snapshots(tmp_path)
    with pytest.raises(ConfigurationError, match="is no node's data directory"):
        recovery.save_snapshot(tmp_path, tmp_path / "saved")
    with pytest.raises(ConfigurationError, match="holds no log"):
        recovery.inspect_log(tmp_path)
    assert contents(tmp_path) == before


def test_directory_of_snapshots_alone_is_looked_into(tmp_path: Path) -> None:
    """Snapshots that were copied elsewhere, under their names, can be inspected without a log."""
    source = path_of(directory_with_two(tmp_path), 6)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / source.name).write_bytes(source.read_bytes())
    assert [each.index for each in recovery.inspect_snapshots(tmp_path / "kept").snapshots] == [6]


def test_inspect_one_says_what_its_header_says(tmp_path: Path) -> None:
    """Cluster, place, configuration, version and size come from the header alone."""
    path = path_of(directory_with_two(tmp_path), 6)
    report = recovery.inspect_snapshot(path)
    assert (report.cluster_id, report.index, report.term, report.state_version) == ("old", 6, 1, 3)
    assert (report.voters, report.learners, report.incarnations) == (tuple(MEMBERS), (), MEMBERS)
    assert (report.configuration_index, report.size, report.digest) == (0, path.stat().st_size, None)


def test_verify_one_reads_all_of_it(tmp_path: Path) -> None:
    """Damage in the state escapes a look at the header, and is named with its place by the verification (N5)."""
    path = path_of(directory_with_two(tmp_path), 6)
    assert len(recovery.inspect_snapshot(path, verify=True).digest or "") == 64
    piece = HEADER.size + int.from_bytes(path.read_bytes()[8:12], "little")
    flip(path, piece + PIECE.size)
    assert recovery.inspect_snapshot(path).index == 6
    before = path.read_bytes()
    with pytest.raises(SnapshotCorrupt, match="checksum") as caught:
        recovery.inspect_snapshot(path, verify=True)
    assert (caught.value.path, caught.value.offset) == (path, piece)
    assert path.read_bytes() == before


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("length", [0, 10, HEADER.size + 5])
def test_truncated_header_is_refused(tmp_path: Path, length: int, verify: bool) -> None:
    """A file that ends within its header is named with the place where it ends."""
    path = path_of(directory_with_two(tmp_path), 6)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SnapshotCorrupt, match="ends in the middle") as caught:
        recovery.inspect_snapshot(path, verify=verify)
    assert (caught.value.path, caught.value.offset) == (path, length)


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot by a later version is named as such, with its file."""
    monkeypatch.setattr(snapshot_format, "SNAPSHOT_VERSION", 2)
    directory = simple_directory(tmp_path / "n1")
    path = Path(add_snapshot(directory, 6, 1).name)
    monkeypatch.undo()
    with pytest.raises(IncompatibleVersion, match="format version 2") as caught:
        recovery.inspect_snapshot(path)
    assert caught.value.what == str(path)


def test_inspect_all_of_a_directory(tmp_path: Path) -> None:
    """They are listed newest first, with what is damaged, what is misnamed, and what was never finished."""
    directory = directory_with_two(tmp_path)
    change(path_of(directory, 6), 0, b"????")
    path_of(directory, 8).write_bytes(path_of(directory, 4).read_bytes())
    (directory / "snapshot-ff-1.partial").write_bytes(b"half")
    before = contents(directory)
    report = recovery.inspect_snapshots(directory)
    assert [each.index for each in report.snapshots] == [4]
    assert [
        (type(each), each.path.name, each.offset) for each in report.damaged if isinstance(each, SnapshotCorrupt)
    ] == [
        (SnapshotCorrupt, path_of(directory, 8).name, 0),
        (SnapshotCorrupt, path_of(directory, 6).name, 0),
    ]
    assert (report.unfinished, report.in_use) == (("snapshot-ff-1.partial",), False)
    assert contents(directory) == before


def test_inspect_while_a_node_is_at_work(tmp_path: Path) -> None:
    """A directory in use is reported as such; its snapshots can be read all the same."""
    store = with_node(tmp_path / "n1")
    add_snapshot(tmp_path / "n1", 4, 1)
    report = recovery.inspect_snapshots(tmp_path / "n1", verify=True)
    assert ([each.index for each in report.snapshots], report.in_use) == ([4], True)
    store.close()


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    for verify in (False, True):
        with pytest.raises(ConfigurationError, match="does not exist"):
            recovery.inspect_snapshot(tmp_path / "missing", verify=verify)


# ------------------------------------------------------------------------------------ saving


def test_save_copies_the_newest(tmp_path: Path) -> None:
    """The copy is the newest snapshot, byte for byte, and the directory is as it was."""
    directory = directory_with_two(tmp_path)
    before = contents(directory)
    saved = recovery.save_snapshot(directory, tmp_path / "saved")
    assert (saved.saved.path, saved.saved.index, saved.damaged) == (tmp_path / "saved", 6, ())
    assert saved.source == path_of(directory, 6)
    assert (tmp_path / "saved").read_bytes() == path_of(directory, 6).read_bytes()
    assert contents(directory) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1", "saved"]


def test_save_passes_over_what_is_damaged(tmp_path: Path) -> None:
    """The newest that is whole is saved, and what is wrong with the newer one is said."""
    directory = directory_with_two(tmp_path)
    flip(path_of(directory, 6), 100)
    saved = recovery.save_snapshot(directory, tmp_path / "saved")
    assert saved.saved.index == 4
    [error] = saved.damaged
    assert isinstance(error, SnapshotCorrupt)
    assert error.path == path_of(directory, 6)


def test_save_without_any_that_is_whole(tmp_path: Path) -> None:
    """Where no snapshot is whole nothing is made, and the damage is said."""
    directory = simple_directory(tmp_path / "n1")
    add_snapshot(directory, 4, 1)
    change(path_of(directory, 4), 0, b"????")
    with pytest.raises(RecoveryRefused, match=r"holds no whole snapshot.*damaged at byte 0"):
        recovery.save_snapshot(directory, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["n1"]


def test_save_replaces_only_if_told_to(tmp_path: Path) -> None:
    """A file that exists stays as it is, unless it may be replaced."""
    directory = directory_with_two(tmp_path)
    (tmp_path / "saved").write_bytes(b"precious")
    with pytest.raises(RecoveryRefused, match="exists already"):
        recovery.save_snapshot(directory, tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == b"precious"
    recovery.save_snapshot(directory, tmp_path / "saved", replace=True)
    assert (tmp_path / "saved").read_bytes() == path_of(directory, 6).read_bytes()


@pytest.mark.parametrize("replace", [False, True])
def test_save_killed_at_any_point(tmp_path: Path, replace: bool) -> None:
    """Wherever the process dies, the name has what it had before, or the whole copy (S7)."""
    directory = directory_with_two(tmp_path)
    whole = path_of(directory, 6).read_bytes()
    seen: set[bytes | None] = set()
    for number in range(50):
        place = tmp_path / f"place{number}"
        place.mkdir()
        if replace:
            (place / "saved").write_bytes(b"precious")
        files = FailingFiles()
        files.killed_before(number)
        try:
            save_newest(directory, place / "saved", replace=replace, files=files)
        except Killed:
            found = (place / "saved").read_bytes() if (place / "saved").exists() else None
            assert found in (b"precious" if replace else None, whole)
            seen.add(found)
        else:
            break
    assert seen == {b"precious" if replace else None, whole}


def test_save_on_a_full_disk(tmp_path: Path) -> None:
    """A full disk is named with the file, and nothing is left behind, whichever write it meets."""
    directory = directory_with_two(tmp_path)
    before = contents(directory)
    named: list[Path] = []
    for number in range(50):
        files = FailingFiles()
        files.full_before(number)
        try:
            save_newest(directory, tmp_path / "saved", files=files)
        except StorageFull as error:
            named.append(error.path.parent)
            assert [path.name for path in tmp_path.iterdir()] == ["n1"]
        else:
            break
    assert named == [tmp_path, tmp_path]
    assert contents(directory) == before


class UnwillingFiles(OsFiles):
    """Nothing gets the name "saved"."""

    def rename(self, path: Path, target: Path) -> None:
        if target.name == "saved":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        super().rename(path, target)


def test_save_that_cannot_rename_leaves_nothing(tmp_path: Path) -> None:
    """If the last step fails, what was to be replaced is what it was, and the copy is gone."""
    directory = directory_with_two(tmp_path)
    (tmp_path / "saved").write_bytes(b"precious")
    with pytest.raises(StorageError, match="renaming"):
        save_newest(directory, tmp_path / "saved", replace=True, files=UnwillingFiles())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1", "saved"]
    assert (tmp_path / "saved").read_bytes() == b"precious"


def test_save_names_its_last_steps(tmp_path: Path) -> None:
    """The copy is synced before it is renamed, and its directory afterwards (S7)."""
    files = FailingFiles()
    save_newest(directory_with_two(tmp_path), tmp_path / "saved", files=files)
    names = [operation for operation in files.operations if not operation.startswith("write")]
    assert names[-2:] == ["rename saved", f"sync_directory {tmp_path.name}"]
    assert names[1].startswith("sync saved")

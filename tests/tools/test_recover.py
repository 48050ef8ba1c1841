"""``recover`` and ``snapshot restore``: which survivor is proposed, what the new directory holds, what is refused.

Whatever happens, the survivors are compared byte for byte before and after.
"""

import json
from pathlib import Path

import attrs
import pytest

from tests.storage.support import append, commands, entry, save
from tests.tools.faults import FailingFiles, Killed
from tests.tools.support import (
    FILES,
    MEMBERS,
    SEGMENT_BYTES,
    Reopened,
    add_snapshot,
    contents,
    flip,
    make_directory,
    owner,
    point,
    reopen,
    simple_directory,
    start_of,
    with_node,
)
from trio_raft import recovery
from trio_raft._config import Config
from trio_raft._errors import (
    ConfigurationError,
    DirectoryInUse,
    DirectoryMismatch,
    IncompatibleVersion,
    LogCorrupt,
    RaftError,
    RecoveryRefused,
    SnapshotCorrupt,
    StorageError,
    StorageFull,
)
from trio_raft._handshake import Handshake
from trio_raft._messages import Incarnation, Purpose, ServerId
from trio_raft._records import RECORD_HEADER_BYTES, EntryKind, Term
from trio_raft._storage import format as log_format
from trio_raft._storage.format import BATCH_HEADER_BYTES, SECTOR_BYTES
from trio_raft._storage.segments import segment_path
from trio_raft._storage.wal import FileLogStore
from trio_raft._tools.making import partial_path
from trio_raft._tools.rebuild import Target, recover_to, restore_to
from trio_raft._tools.texts import survey_lines
from trio_raft.abc import SaveSnapshot, SaveVote, StoreIdentity


@attrs.frozen
class Place:
    """Where survivors are, each called old…, and where the new directory goes."""

    root: Path

    @property
    def to(self) -> Path:
        return self.root / "new"

    @property
    def old(self) -> list[Path]:
        return sorted(self.root.glob("old*"))

    def target(self, *, cluster_id: str = "new") -> Target:
        return Target(directory=self.to, node_id="n9", cluster_id=cluster_id)

    def recover(
        self, *, cluster_id: str = "new", accept_data_loss: bool = True, survivor: Path | None = None
    ) -> recovery.Recovery:
        """From all that are there."""
        before = self.image()
        try:
            return recovery.recover(
                self.old,
                to=self.to,
                node_id="n9",
                cluster_id=cluster_id,
                accept_data_loss=accept_data_loss,
                survivor=survivor,
            )
        finally:
            assert self.image() == before

    def image(self) -> dict[Path, dict[str, bytes]]:
        """All survivors, byte for byte."""
        return {directory: contents(directory) for directory in self.old}

    def check_refused(self, error: type[RaftError], match: str, *, cluster_id: str = "new") -> None:
        """A recovery is refused, and nothing is made."""
        with pytest.raises(error, match=match):
            self.recover(cluster_id=cluster_id)
        self.check_nothing_made()

    def check_nothing_made(self) -> None:
        """The survivors are all there is."""
        assert [path for path in self.root.iterdir() if path.is_dir() and path not in self.old] == []

    def reopen(self, created: recovery.NewCluster) -> Reopened:
        """As the new node finds it."""
        return reopen(self.to, StoreIdentity(created.cluster_id, created.node_id, Incarnation("unused")))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def directory_with_snapshot(directory: Path) -> Path:
    """A log of 1 to 9, and a snapshot up to 6."""
    simple_directory(directory)
    add_snapshot(directory, 6, 1, b"state ", b"at 6")
    return directory


# ------------------------------------------------------------------------------------ the survey


def test_propose_compares_last_term_then_last_index(place: Place) -> None:
    """A shorter log with a later last term is fresher, and of one term the longer one is (E3)."""
    make_directory(place.root / "old1", start_of(1), [commands(1, 20, term=1)])
    make_directory(place.root / "old2", start_of(2), [commands(1, 5, term=2)])
    make_directory(place.root / "old3", start_of(9), [commands(1, 6, term=2)])
    survey = recovery.survey(place.old)
    assert [each.last for each in survey.survivors] == [point(20, 1), point(5, 2), point(6, 2)]
    assert recovery.propose(survey).directory == place.root / "old3"
    assert survey.highest_term == 9


def test_propose_counts_a_snapshot_beyond_its_log(place: Place) -> None:
    """A snapshot that reaches beyond the log is where that server ends (E3, N1)."""
    simple_directory(place.root / "old1")
    make_directory(place.root / "old2", start_of(1), [commands(1, 3, term=1)])
    add_snapshot(place.root / "old2", 50, 2)
    survey = recovery.survey(place.old)
    assert [each.last for each in survey.survivors] == [point(9, 2), point(50, 2)]
    assert recovery.propose(survey).directory == place.root / "old2"


def test_propose_of_equals_takes_the_newer_snapshot_then_the_first_named(place: Place) -> None:
    """Between equally fresh logs the snapshot decides, and without one the order."""
    for name in ("old1", "old2"):
        simple_directory(place.root / name)
    assert recovery.propose(recovery.survey(reversed(place.old))).directory == place.root / "old2"
    add_snapshot(place.root / "old1", 6, 1)
    assert recovery.propose(recovery.survey(reversed(place.old))).directory == place.root / "old1"


def test_survey_shows_damage_and_does_not_propose_it(place: Place) -> None:
    """A damaged directory is shown with what is wrong, its owner and the term as far as it can be read."""
    simple_directory(place.root / "old1")
    make_directory(place.root / "old2", start_of(7), [commands(1, 40, term=7)], [SaveVote(Term(8), None)])
    flip(segment_path(place.root / "old2", 1), 2 * SECTOR_BYTES + 100)
    survey = recovery.survey(place.old)
    damaged = survey.survivors[1]
    assert isinstance(damaged.damage, LogCorrupt)
    assert (damaged.damage.path, damaged.damage.offset) == (segment_path(place.root / "old2", 1), 2 * SECTOR_BYTES)
    assert (damaged.node_id, damaged.cluster_id, damaged.last) == ("n1", "old", point(0, 0))
    assert recovery.propose(survey).directory == place.root / "old1"


def test_survey_names_damaged_snapshots(place: Place) -> None:
    """An older snapshot takes the place of a damaged one where the log reaches back, and the damage is said."""
    directory = directory_with_snapshot(place.root / "old1")
    newest = add_snapshot(directory, 8, 2)
    flip(Path(newest.name), 100)
    [survivor] = recovery.survey(place.old).survivors
    assert survivor.snapshot is not None
    assert (survivor.snapshot.index, survivor.damage) == (6, None)
    assert [type(error) for error in survivor.damaged_snapshots] == [SnapshotCorrupt]


def test_survey_of_a_snapshot_of_another_cluster(place: Place) -> None:
    """A directory with another cluster's snapshot in it is not to be used."""
    simple_directory(place.root / "old1")
    add_snapshot(place.root / "old1", 6, 1, cluster_id="other")
    [survivor] = recovery.survey(place.old).survivors
    assert isinstance(survivor.damage, DirectoryMismatch)
    place.check_refused(RecoveryRefused, "none of these directories")


# ------------------------------------------------------------------------------------ the new directory


def test_recovered_directory_holds_the_survivors_entries_and_state(place: Place) -> None:
    """Snapshot and entries are the survivor's; cluster, incarnation, term and members are new."""
    directory_with_snapshot(place.root / "old1")
    make_directory(place.root / "old2", start_of(5), [commands(1, 2, term=1)], node_id="n2")
    recovered = place.recover()
    created = recovered.created
    assert recovered.survivor.directory == place.root / "old1"
    assert (created.cluster_id, created.node_id, created.term, created.last) == ("new", "n9", 6, point(9, 2))
    node = place.reopen(created)
    assert node.found.incarnation == created.incarnation
    assert created.incarnation not in MEMBERS.values()
    assert (node.found.term, node.found.voted_for) == (6, None)
    assert node.found.bootstrap is not None
    assert (node.found.bootstrap.incarnations, node.found.bootstrap.done) == ({"n9": created.incarnation}, True)
    assert (node.found.base, node.found.superseded) == (point(6, 1), False)
    assert node.commands == [(index, 2, b"command") for index in (7, 8, 9)]
    assert node.snapshot is not None
    assert (node.snapshot.meta.cluster_id, node.snapshot.point, node.state) == ("new", point(6, 1), b"state at 6")
    configuration = node.snapshot.meta.configuration
    assert (configuration.index, configuration.voters, configuration.learners) == (0, ("n9",), ())
    assert configuration.incarnations == {"n9": created.incarnation}
    assert node.snapshot.meta.state_version == 3


def test_recovered_directory_without_a_snapshot(place: Place) -> None:
    """A log that was never cut is copied from its first entry on, across many files."""
    batches = [[commands(first, first + 4, term=1, data=b"x" * 300)] for first in range(1, 100, 5)]
    make_directory(place.root / "old1", start_of(1), *batches)
    node = place.reopen(place.recover().created)
    assert (node.found.base, node.snapshot) == (point(0, 0), None)
    assert node.commands == [(index, 1, b"x" * 300) for index in range(1, 101)]


def test_recovered_directory_of_a_snapshot_that_supersedes_its_log(place: Place) -> None:
    """Where the snapshot reaches beyond the log, it is all there is (N1)."""
    make_directory(place.root / "old1", start_of(1), [commands(1, 3, term=1)])
    add_snapshot(place.root / "old1", 50, 2, b"state")
    created = place.recover().created
    node = place.reopen(created)
    assert (created.last, node.found.base, node.found.last_index, node.state) == (
        point(50, 2),
        point(50, 2),
        50,
        b"state",
    )


def test_recovered_directory_names_no_old_member(place: Place) -> None:
    """Configurations of the old cluster become no-ops in their places."""
    old = entry(2, 1, b"voters: n1, n2, n3", EntryKind.CONFIGURATION)
    make_directory(place.root / "old1", start_of(1), [append(entry(1, 1), old, entry(3, 1))])
    node = place.reopen(place.recover().created)
    assert [(each.kind, each.data) for each in node.found.tail] == [
        (EntryKind.COMMAND, b"command"),
        (EntryKind.NO_OP, b""),
        (EntryKind.COMMAND, b"command"),
    ]


def test_recovered_directory_takes_entries_as_long_as_a_segment(place: Place) -> None:
    """The longest entry that fitted into the survivor's files fits into the new ones, whatever the new ids are."""
    longest = SEGMENT_BYTES - SECTOR_BYTES - BATCH_HEADER_BYTES - RECORD_HEADER_BYTES
    make_directory(place.root / "old1", start_of(1), [commands(1, 1, term=1, data=b"x" * longest)])
    node = place.reopen(place.recover(cluster_id="new" * 300).created)
    assert node.commands == [(1, 1, b"x" * longest)]


def test_recovered_directory_is_no_old_members(place: Place) -> None:
    """Neither the old node nor the new one can open the other's directory."""
    simple_directory(place.root / "old1")
    created = place.recover().created
    for directory, identity in ((place.to, owner()), (place.root / "old1", owner("n9", cluster_id=created.cluster_id))):
        store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
        with pytest.raises(DirectoryMismatch, match="cluster_id"):
            store.open(identity, memory_bytes=0)


def test_recovered_directory_shakes_hands_with_no_old_member(place: Place) -> None:
    """Whichever side dials, an old member and the new one refuse each other before any Raft message (W2)."""
    simple_directory(place.root / "old1")
    created = place.recover().created
    old, new = handshake("n1", "old", "aa"), handshake(created.node_id, created.cluster_id, created.incarnation)
    for dialler, listener in ((old, new), (new, old)):
        hello = dialler.hello(receiver=listener.config.node_id, purpose=Purpose.CONTROL)
        assert listener.judge(hello).refusal_code == "cluster"


def handshake(node_id: str, cluster_id: str, incarnation: str) -> Handshake:
    """The side of a server whose first start is over."""
    members = {"n1": "host:1", "n9": "host:9"}
    return Handshake(
        config=Config(node_id=node_id, cluster_id=cluster_id, members=members, data_directory=Path("unused")),
        incarnation=Incarnation(incarnation),
        boot_id="boot",
        bootstrap_done=lambda: True,
        known_incarnation=lambda _: None,
    )


def test_recovered_directory_takes_more(place: Place) -> None:
    """The new node goes on where the survivor ended."""
    directory_with_snapshot(place.root / "old1")
    created = place.recover().created
    store = FileLogStore(place.to, segment_bytes=SEGMENT_BYTES, files=FILES)
    identity = StoreIdentity("new", ServerId("n9"), Incarnation("unused"))
    store.open(identity, memory_bytes=0, snapshot=point(6, 1))
    save(store, commands(10, 11, term=created.term))
    store.close()
    assert place.reopen(created).found.last_index == 11


def test_recovery_is_audited(place: Place) -> None:
    """One line says when, from what, what it became, and what was accepted."""
    directory_with_snapshot(place.root / "old1")
    created = place.recover().created
    [line] = (place.to / "audit.jsonl").read_text().splitlines()
    audit = json.loads(line)
    assert (audit["action"], audit["directories"]) == ("recover", [str(place.root / "old1")])
    assert audit["when"].endswith("+00:00")
    old, new = audit["survivor"], audit["created"]
    assert (old["cluster_id"], old["node_id"], old["incarnation"], old["term"]) == ("old", "n1", "aa", 2)
    assert (old["last"], old["snapshot"]["index"]) == ({"index": 9, "term": 2}, 6)
    assert (new["cluster_id"], new["incarnation"], new["term"]) == ("new", created.incarnation, 3)
    assert new["directory"] == str(place.to)
    assert "must stay down for ever" in audit["accepted"]
    assert audit["version"] != ""


def test_recover_from_the_one_that_was_named(place: Place) -> None:
    """Another survivor than the best may be chosen; the term is above all that were seen."""
    simple_directory(place.root / "old1", last=9)
    simple_directory(place.root / "old2", last=20, term=6)
    created = place.recover(survivor=place.root / "old1").created
    assert (created.last, created.term) == (point(9, 2), 7)


# ------------------------------------------------------------------------------------ refusals


def test_recover_needs_the_loss_accepted(place: Place) -> None:
    """Without the express acceptance nothing is made, and the error says what would be lost."""
    simple_directory(place.root / "old1")
    with pytest.raises(RecoveryRefused, match="may be lost"):
        place.recover(accept_data_loss=False)
    place.check_nothing_made()


def test_recover_refuses_the_old_cluster_id(place: Place) -> None:
    """The new cluster's id must be no old one's."""
    simple_directory(place.root / "old1")
    place.check_refused(RecoveryRefused, "is the old cluster's id", cluster_id="old")


def test_recover_refuses_different_clusters(place: Place) -> None:
    """Directories of different clusters have nothing to do with each other."""
    simple_directory(place.root / "old1")
    make_directory(place.root / "old2", start_of(1), [commands(1, 2, term=1)], cluster_id="other")
    place.check_refused(RecoveryRefused, "different clusters: old, other")


def test_recover_refuses_a_directory_in_use(place: Place) -> None:
    """A node that still runs on one of the directories forbids it (S10)."""
    simple_directory(place.root / "old1")
    store = with_node(place.root / "old2", start_of(1))
    place.check_refused(DirectoryInUse, "in use")
    store.close()


def test_recover_keeps_nodes_from_starting_meanwhile(place: Place) -> None:
    """While the survivors are read, no node can open them (S10)."""
    directory = simple_directory(place.root / "old1")
    refusals: list[DirectoryInUse] = []

    def try_to_open(_what: str, _done: int, _whole: int) -> None:
        store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
        try:
            store.open(owner(), memory_bytes=0)
        except DirectoryInUse as error:
            refusals.append(error)
        finally:
            store.close()

    recover_to([directory], place.target(), accept_data_loss=True, files=FILES, progress=try_to_open)
    assert len(refusals) >= 1


def test_recover_notices_a_node_that_starts_on_a_copy(place: Place) -> None:
    """A directory without a lock file cannot be held; a node that starts there meanwhile is noticed, and stops it."""
    directory = simple_directory(place.root / "old1")
    (directory / "lock").unlink()

    def start_node(what: str, _done: int, _whole: int) -> None:
        if what == "copying entries":
            (directory / "lock").write_bytes(b"")

    with pytest.raises(DirectoryInUse, match="while it was read"):
        recover_to([directory], place.target(), accept_data_loss=True, files=FILES, progress=start_node)
    place.check_nothing_made()


def test_recover_refuses_what_is_damaged(place: Place) -> None:
    """With nothing whole to recover from, nothing is made; a damaged survivor cannot be chosen either."""
    directory = simple_directory(place.root / "old1")
    flip(segment_path(directory, 1), 2 * SECTOR_BYTES + 100)
    place.check_refused(
        RecoveryRefused, "none of these directories can be recovered from. .*segment is damaged at byte 1024"
    )
    simple_directory(place.root / "old2")
    with pytest.raises(RecoveryRefused, match="cannot be recovered from"):
        place.recover(survivor=directory)
    with pytest.raises(RecoveryRefused, match="none of the directories that were named"):
        place.recover(survivor=place.root)
    place.check_nothing_made()


def test_recover_refuses_a_newer_format(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log by a later version is shown as such, and not recovered from."""
    monkeypatch.setattr(log_format, "FORMAT_VERSION", 2)
    simple_directory(place.root / "old1")
    monkeypatch.undo()
    [survivor] = recovery.survey(place.old).survivors
    assert isinstance(survivor.damage, IncompatibleVersion)
    place.check_refused(RecoveryRefused, "none of these directories")


def test_recover_refuses_a_snapshot_that_is_missing(place: Place) -> None:
    """A log that begins above its only whole snapshot has a gap; what is to be mended is the damaged one (N4)."""
    directory = make_directory(place.root / "old1", start_of(1), [commands(1, 9, term=1)])
    newest = add_snapshot(directory, 50, 2)
    store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
    store.open(owner(), memory_bytes=0, snapshot=newest.point)
    save(store, SaveSnapshot(newest.point, keep=False), commands(51, 52, term=2))
    store.close()
    add_snapshot(directory, 6, 1)
    flip(Path(newest.name), 100)
    survey = recovery.survey(place.old)
    [survivor] = survey.survivors
    assert isinstance(survivor.damage, SnapshotCorrupt)
    # Told once, though it is both why the log is of no use and what is wrong with the snapshots.
    assert len([line for line in survey_lines(survey) if "DAMAGED" in line]) == 1
    assert (survivor.damage.path, survivor.damage.offset) == (Path(newest.name), 0)
    with pytest.raises(SnapshotCorrupt, match="header's checksum is wrong"):
        recovery.inspect_log(directory)
    # With the log damaged as well, it is no longer the snapshot alone.
    flip(segment_path(directory, 1), 2 * SECTOR_BYTES + 100)
    with pytest.raises(LogCorrupt):
        recovery.inspect_log(directory)
    place.check_refused(RecoveryRefused, "none of these directories")


def test_recover_refuses_a_place_that_is_taken(place: Place) -> None:
    """What is there already stays; a remainder of an earlier try too, which is named."""
    simple_directory(place.root / "old1")
    place.to.mkdir()
    with pytest.raises(RecoveryRefused, match="exists already"):
        place.recover()
    place.to.rmdir()
    partial_path(place.to).mkdir()
    with pytest.raises(RecoveryRefused, match="interrupted command"):
        place.recover()
    assert list(partial_path(place.to).iterdir()) == []


def test_recover_refuses_a_place_inside_a_survivor(place: Place) -> None:
    """A survivor is never changed, not even by something new within it; a link to it does not help."""
    directory = simple_directory(place.root / "old1")
    (place.root / "link").symlink_to(directory)
    before = place.image()
    for to in (directory / "new", place.root / "link" / "new"):
        with pytest.raises(RecoveryRefused, match="never changed"):
            recovery.recover([directory], to=to, node_id="n9", cluster_id="new", accept_data_loss=True)
    assert place.image() == before


def test_recover_refuses_what_makes_no_sense(place: Place) -> None:
    """Empty ids, a wrong address, no directory, a missing one, a missing parent: each is named."""
    directory = simple_directory(place.root / "old1")
    for change, key in (
        ({"node_id": ""}, "node_id"),
        ({"cluster_id": ""}, "cluster_id"),
        ({"address": "nowhere"}, "address"),
        ({"directory": place.root / "missing" / "new"}, "does not exist"),
    ):
        target = attrs.evolve(place.target(), **change)
        with pytest.raises(ConfigurationError, match=key):
            recover_to([directory], target, accept_data_loss=True, files=FILES)
    empty = place.root / "old-empty"
    empty.mkdir()
    for directories in ([], [place.root / "missing"], [directory, empty]):
        with pytest.raises(ConfigurationError, match=r"no directory|does not exist|holds no log"):
            recover_to(directories, place.target(), accept_data_loss=True, files=FILES)
    place.check_nothing_made()


# ------------------------------------------------------------------------------------ crashes and full disks


def test_recover_killed_at_any_point(place: Place) -> None:
    """Wherever the process dies, the new directory is not there, or is there whole; the survivors are as they were."""
    directory = directory_with_snapshot(place.root / "old1")
    before = place.image()
    made: list[bool] = []
    for number in range(200):
        files = FailingFiles()
        files.killed_before(number)
        target = attrs.evolve(place.target(), directory=place.root / f"new{number}")
        try:
            recover_to([directory], target, accept_data_loss=True, files=files)
        except Killed:
            made.append(target.directory.exists())
        else:
            break
        if made[-1]:
            report = recovery.inspect_log(target.directory, verify=True)
            assert (report.last, report.members_confirmed) == (point(9, 2), True)
            assert (target.directory / "audit.jsonl").exists()
    assert sorted(made) == made
    assert set(made) == {False, True}
    assert place.image() == before


def test_recover_makes_everything_durable_before_the_name(place: Place) -> None:
    """The last steps are: the new directory's files, its names, its own name, and that is durable too (S7)."""
    directory = directory_with_snapshot(place.root / "old1")
    files = FailingFiles()
    recover_to([directory], place.target(), accept_data_loss=True, files=files)
    assert files.operations[-5:] == [
        "write audit.jsonl",
        "sync audit.jsonl",
        "sync_directory new.partial",
        "rename new",
        f"sync_directory {place.root.name}",
    ]


def test_recover_on_a_full_disk(place: Place) -> None:
    """Whichever write finds the disk full, the error is typed and names a file, and nothing is left behind."""
    directory = directory_with_snapshot(place.root / "old1")
    before = place.image()
    named: list[Path] = []
    for number in range(200):
        files = FailingFiles()
        files.full_before(number)
        try:
            recover_to([directory], place.target(), accept_data_loss=True, files=files)
        except (StorageFull, StorageError) as error:
            named.append(error.path)
            place.check_nothing_made()
        else:
            break
    assert len(named) > 10
    assert {path.parent for path in named} == {place.root, partial_path(place.to)}
    assert place.image() == before


def test_recover_interrupted_leaves_nothing(place: Place) -> None:
    """Ctrl-C in the middle removes what was made so far."""
    directory = directory_with_snapshot(place.root / "old1")

    def interrupt(what: str, _done: int, _whole: int) -> None:
        if what == "copying entries":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover_to([directory], place.target(), accept_data_loss=True, files=FILES, progress=interrupt)
    place.check_nothing_made()


# ------------------------------------------------------------------------------------ restoring a snapshot


def test_restore_makes_a_cluster_of_the_state(place: Place) -> None:
    """The state is the snapshot's; cluster, incarnation, term and members are new."""
    directory = directory_with_snapshot(place.root / "old1")
    recovery.save_snapshot(directory, place.root / "saved")
    saved = (place.root / "saved").read_bytes()
    restored = recovery.restore_snapshot(place.root / "saved", to=place.to, node_id="n9", cluster_id="new")
    assert (restored.snapshot.index, restored.created.term, restored.created.last) == (6, 2, point(6, 1))
    node = place.reopen(restored.created)
    assert (node.state, node.found.base, node.found.last_index) == (b"state at 6", point(6, 1), 6)
    assert (node.found.term, node.found.voted_for, node.found.superseded) == (2, None, False)
    assert node.found.bootstrap is not None
    assert node.found.bootstrap.incarnations == {"n9": restored.created.incarnation}
    assert (place.root / "saved").read_bytes() == saved
    audit = json.loads((place.to / "audit.jsonl").read_text())
    assert (audit["action"], audit["snapshot"]["cluster_id"], audit["snapshot"]["index"]) == ("restore", "old", 6)


def test_restore_refuses_bad_input(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged, a shortened, a newer, a missing snapshot, and the old cluster's id: each typed, and nothing made."""
    path = Path(add_snapshot(simple_directory(place.root / "old1"), 6, 1, b"state").name)
    whole = path.read_bytes()
    cases: list[tuple[bytes, type[RaftError], str]] = [
        (whole[:-1], SnapshotCorrupt, "ends in the middle"),
        (whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], SnapshotCorrupt, "damaged at byte"),
        (b"", SnapshotCorrupt, "ends in the middle"),
        (whole + b"!", SnapshotCorrupt, "behind its end"),
        (whole, RecoveryRefused, "is the old cluster's id"),
    ]
    for content, error, match in cases:
        (place.root / "file").write_bytes(content)
        with pytest.raises(error, match=match):
            restore_to(place.root / "file", place.target(cluster_id="old"), files=FILES)
        assert (place.root / "file").read_bytes() == content
    with pytest.raises(ConfigurationError, match="does not exist"):
        restore_to(place.root / "missing", place.target(), files=FILES)
    place.check_nothing_made()

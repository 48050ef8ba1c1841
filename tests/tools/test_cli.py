"""``python -m trio_raft``: what the commands print, their exit statuses, and their JSON."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.support import add_snapshot, contents, flip, simple_directory, start_of, with_node
from trio_raft.__main__ import main
from trio_raft._storage.format import SECTOR_BYTES
from trio_raft._storage.segments import segment_path
from trio_raft._tools import commands
from trio_raft._tools.console import Bar

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Entries 1 to 9, and a snapshot up to 6."""
    made = simple_directory(tmp_path / "n1")
    add_snapshot(made, 6, 1, b"state")
    return made


def run_json(capsys: Captured, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """What a command prints with --json."""
    assert main([*map(str, arguments), "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["ok"] is (status == 0)
    return result


def run_text(capsys: Captured, *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of a command."""
    assert main([*map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


# ------------------------------------------------------------------------------------ log


def test_log_inspect_text(directory: Path, capsys: Captured) -> None:
    """A person is told owner, term, vote, entries, members, snapshot and files."""
    out, err = run_text(capsys, "log", "inspect", directory)
    for part in (
        f"log of n1 in cluster old: {directory}",
        "term         2, vote: n2",
        "entries      1 to 9, the last of term 2; nothing was ever cut",
        "terms        1 from 1, 2 from 7",
        "members      n1 (aa), n2 (bb), n3 (cc); all of them agreed on these",
        "snapshot     6 of term 1",
        f"{segment_path(directory, 1).name}  2560 of 4096 bytes, 4 batches, entries 1 to 9",
        f"{segment_path(directory, 2).name}  prepared, nothing in it yet",
    ):
        assert part in out
    assert err == ""


def test_log_inspect_entries(directory: Path, capsys: Captured) -> None:
    """Entries are listed from A to B, as far as they are there."""
    out, _ = run_text(capsys, "log", "inspect", directory, "--entries", "6:7")
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["6", "term", "1", "command", "7", "bytes"],
        ["7", "term", "2", "command", "7", "bytes"],
    ]
    listed = run_json(capsys, "log", "inspect", directory, "--entries", "9:1000")["entries"]
    assert listed == [{"index": 9, "term": 2, "kind": "COMMAND", "size": 7}]


def test_log_verify_json(directory: Path, capsys: Captured) -> None:
    """For machines there is one JSON object with the same facts."""
    log = run_json(capsys, "log", "verify", directory)["log"]
    assert (log["directory"], log["node_id"], log["records_checked"]) == (str(directory), "n1", 12)
    assert (log["base"], log["last"]) == ({"index": 0, "term": 0}, {"index": 9, "term": 2})
    assert log["members"] == {"n1": "aa", "n2": "bb", "n3": "cc"}


def test_damage_is_one_line_and_one_object(directory: Path, capsys: Captured) -> None:
    """A damaged log ends with status 1, and the error names file, offset and index; nothing is changed."""
    path = segment_path(directory, 1)
    flip(path, 2 * SECTOR_BYTES + 100)
    before = contents(directory)
    out, err = run_text(capsys, "log", "verify", directory, status=1)
    assert out == ""
    assert err.startswith(f"error: {path} is damaged at byte {2 * SECTOR_BYTES}, near log index 1: ")
    assert len(err.splitlines()) == 1
    error = run_json(capsys, "log", "verify", directory, status=1)["error"]
    assert (error["type"], error["path"], error["offset"], error["index"]) == ("LogCorrupt", str(path), 1024, 1)
    assert contents(directory) == before


def test_directory_in_use(tmp_path: Path, capsys: Captured) -> None:
    """A directory in use is refused with status 1; its snapshots are listed with a word about it."""
    store = with_node(tmp_path / "n1", start_of(1))
    assert run_json(capsys, "log", "inspect", tmp_path / "n1", status=1)["error"]["type"] == "DirectoryInUse"
    assert run_json(capsys, "recover", tmp_path / "n1", status=1)["error"]["type"] == "DirectoryInUse"
    out, _ = run_text(capsys, "snapshot", "inspect", tmp_path / "n1")
    assert "is in use by a node" in out
    store.close()


# ------------------------------------------------------------------------------------ snapshot


def test_snapshot_inspect_and_verify(directory: Path, capsys: Captured) -> None:
    """A directory's snapshots, or one file, are described; only the verification says that they are whole."""
    path = directory / f"snapshot-{1:016d}-{6:016d}.snapshot"
    for what in (directory, path):
        out, _ = run_text(capsys, "snapshot", "inspect", what)
        assert f"snapshot up to 6 of term 1: {path}" in out
        assert "only its header was read" in out
        out, _ = run_text(capsys, "snapshot", "verify", what)
        assert "whole, SHA-256 " in out
    assert run_json(capsys, "snapshot", "verify", path)["snapshot"]["index"] == 6
    [listed] = run_json(capsys, "snapshot", "verify", directory)["snapshots"]["snapshots"]
    assert listed["path"] == str(path)


def test_snapshot_verify_of_damage(directory: Path, capsys: Captured) -> None:
    """Damage ends with status 1, in a directory's list as for one file."""
    path = directory / f"snapshot-{1:016d}-{6:016d}.snapshot"
    flip(path, path.stat().st_size - 1)
    out, _ = run_text(capsys, "snapshot", "verify", directory, status=1)
    assert f"DAMAGED: snapshot {path} is damaged at byte" in out
    report = run_json(capsys, "snapshot", "verify", directory, status=1)["snapshots"]
    assert [error["type"] for error in report["damaged"]] == ["SnapshotCorrupt"]
    error = run_json(capsys, "snapshot", "verify", path, status=1)["error"]
    assert (error["type"], error["path"]) == ("SnapshotCorrupt", str(path))


def test_damaged_snapshot_that_the_log_does_not_need(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    """It is damage although the log is whole (status 1); where no snapshot is whole, each damage is told once."""
    path = Path(add_snapshot(directory, 9, 2, b"newest").name)
    flip(path, 20)
    damage = f"snapshot {path} is damaged at byte 0: the header's checksum is wrong"
    for verb in ("inspect", "verify"):
        out, _ = run_text(capsys, "log", verb, directory, status=1)
        assert f"  DAMAGED, and not needed by the log: {damage}\n" in out
        report = run_json(capsys, "log", verb, directory, status=1)
        assert (report["ok"], report["log"]["damaged_snapshots"][0]["type"]) == (False, "SnapshotCorrupt")
    for other in directory.glob("*.snapshot"):
        if other != path:
            other.unlink()
    _, err = run_text(capsys, "snapshot", "save", directory, tmp_path / "saved", status=1)
    assert err == f"error: {directory} holds no whole snapshot; {damage}. Nothing was changed.\n"


def test_damaged_snapshot_behind_a_whole_one(directory: Path, capsys: Captured) -> None:
    """A node falls back on it one day: verifying the log finds it (status 1), and inspecting says it was not read."""
    path = directory / f"snapshot-{1:016d}-{6:016d}.snapshot"
    add_snapshot(directory, 9, 2, b"newest")
    assert run_json(capsys, "log", "verify", directory)["log"]["unread_snapshots"] == []
    offset = path.stat().st_size - 1
    flip(path, offset)
    before = contents(directory)
    out, _ = run_text(capsys, "log", "inspect", directory)
    assert f"  {path.name}  older, and not read: log verify and snapshot verify do that\n" in out
    assert run_json(capsys, "log", "inspect", directory)["log"]["unread_snapshots"] == [path.name]
    out, _ = run_text(capsys, "log", "verify", directory, status=1)
    assert "  snapshot     9 of term 2\n" in out
    assert f"  DAMAGED, and not needed by the log: snapshot {path} is damaged at byte " in out
    assert "not read" not in out
    [damage] = run_json(capsys, "log", "verify", directory, status=1)["log"]["damaged_snapshots"]
    assert (damage["type"], damage["path"]) == ("SnapshotCorrupt", str(path))
    assert contents(directory) == before


def test_snapshot_save_and_restore(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    """A snapshot is copied out, refused where it would replace something, and makes a new cluster."""
    saved = tmp_path / "saved"
    run_text(capsys, "snapshot", "save", directory, saved)
    assert "exists already" in run_text(capsys, "snapshot", "save", directory, saved, status=1)[1]
    run_text(capsys, "snapshot", "save", directory, saved, "--force")
    target = ("--to", tmp_path / "new", "--node-id", "n9", "--cluster-id", "new", "--address", "host:7101")
    out, _ = run_text(capsys, "snapshot", "restore", saved, *target)
    assert f"made {tmp_path / 'new'}: n9 in the new cluster new" in out
    assert 'members = { n9 = "host:7101" }' in out
    assert "must stay down for ever" in out
    assert run_json(capsys, "log", "verify", tmp_path / "new")["log"]["base"] == {"index": 6, "term": 1}


# ------------------------------------------------------------------------------------ recover


def test_recover_is_a_dry_run_by_default(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    """Without a place to write to, it says what each holds, which is best, what that would mean, and writes nothing."""
    other = simple_directory(tmp_path / "n2", last=20, node_id="n2")
    flip(segment_path(other, 1), 2 * SECTOR_BYTES + 100)
    before = sorted(path for path in tmp_path.rglob("*"))
    out, _ = run_text(capsys, "recover", directory, other)
    for part in (
        "n1 in cluster old, incarnation aa; term 2, vote: n2",
        "last entry 9 of term 2",
        "newest whole snapshot up to 6 of term 1",
        f"DAMAGED: {segment_path(other, 1)} is damaged",
        f"best survivor: {directory}, last entry 9 of term 2",
        "--to NEWDIR --node-id ID --cluster-id NEW --accept-data-loss",
        "Entries after the survivor's last one may be lost",
        "entries in it that were never committed become committed",
        "must stay down for ever",
        "needs changes of membership, which this version does not have yet",
    ):
        assert part in out
    result = run_json(capsys, "recover", directory, other)
    assert result["proposal"] == str(directory)
    assert [survivor["damage"] is None for survivor in result["survivors"]] == [True, False]
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_recover_with_nothing_whole(directory: Path, capsys: Captured) -> None:
    """With every directory damaged the status is 1, and what is wrong is shown all the same."""
    flip(segment_path(directory, 1), 2 * SECTOR_BYTES + 100)
    out, err = run_text(capsys, "recover", directory, status=1)
    assert "DAMAGED" in out
    damaged = f"{segment_path(directory, 1)} is damaged at byte 1024, near log index 1: batch 3 is damaged"
    assert err.startswith(f"error: none of these directories can be recovered from. {directory}: {damaged}")
    assert err.endswith("No crash leaves this behind. Nothing was changed.\n")
    result = run_json(capsys, "recover", directory, status=1)
    assert result["error"]["type"] == "RecoveryRefused"
    assert result["survivors"][0]["damage"]["type"] == "LogCorrupt"


def test_recover_writes_when_the_loss_is_accepted(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    """With everything said it makes the new directory; without the acceptance it refuses."""
    target = ("--to", tmp_path / "new", "--node-id", "n9", "--cluster-id", "new")
    assert "was not accepted" in run_text(capsys, "recover", directory, *target, status=1)[1]
    assert not (tmp_path / "new").exists()
    result = run_json(capsys, "recover", directory, *target, "--accept-data-loss")
    created = result["recovered"]["created"]
    assert (created["directory"], created["term"], created["last"]["index"]) == (str(tmp_path / "new"), 3, 9)
    assert run_json(capsys, "log", "verify", tmp_path / "new")["log"]["cluster_id"] == "new"
    other = ("--to", tmp_path / "newer", "--node-id", "n9", "--cluster-id", "newer")
    out, _ = run_text(capsys, "recover", directory, *other, "--accept-data-loss", "--survivor", directory)
    assert f"recovered from {directory}" in out
    assert "Start n9 on it with these settings; HOST:PORT is where it is to be reached:" in out
    assert '  members = { n9 = "HOST:PORT" }' in out


# ------------------------------------------------------------------------------------ usage, statuses, progress


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log"],
        ["log", "inspect"],
        ["log", "inspect", ".", "--entries", "5"],
        ["log", "inspect", ".", "--entries", "0:5"],
        ["log", "inspect", ".", "--entries", "5:4"],
        ["snapshot", "restore", "file", "--to", "new"],
    ],
)
def test_usage(arguments: list[str], capsys: Captured) -> None:
    """A command that makes no sense ends with status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m trio_raft" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["log", "inspect", "missing"], "does not exist"),
        (["snapshot", "inspect", "missing"], "does not exist"),
        (["recover", "missing"], "does not exist; name the directories that survived, only these"),
        (["log", "inspect", "."], "holds no log"),
        (["snapshot", "inspect", "."], "is no node's data directory: it holds neither a log nor a snapshot"),
        (["snapshot", "verify", "."], "is no node's data directory"),
        (["snapshot", "save", ".", "saved"], "is no node's data directory"),
        (["recover", "."], "holds no log"),
        (["recover", ".", "--accept-data-loss"], "--accept-data-loss needs --to"),
        (["recover", ".", "--to", "new"], "--to needs --node-id as well"),
    ],
)
def test_what_is_not_there(
    arguments: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """So does one that names what is not there, or leaves out what it needs."""
    monkeypatch.chdir(tmp_path)
    _, err = run_text(capsys, *arguments, status=2)
    assert problem in err
    assert list(tmp_path.iterdir()) == []


def test_interrupted(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Ctrl-C ends with status 130."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "open_log", interrupt)
    assert run_text(capsys, "log", "inspect", directory, status=130) == ("", "interrupted\n")


def test_statuses_of_the_program(directory: Path) -> None:
    """As a program it ends with the statuses that its help documents."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trio_raft", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run("log", "verify", directory).returncode == 0
    shown = run("recover", "--help")
    assert "exit status: 0 all is well; 1 something is damaged" in " ".join(shown.stdout.lower().split())
    flip(segment_path(directory, 1), 2 * SECTOR_BYTES + 100)
    damaged = run("log", "verify", directory)
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert run("log", "verify", directory / "missing").returncode == 2


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bar_is_for_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the bar shows the share and leaves nothing behind; elsewhere it is silent."""
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = Bar()
        bar("copying", 1, 2)
        bar("copying", 1, 2)
        assert stream.getvalue().count("copying [############            ]  50%") == int(shown)
        bar.clear()
        assert stream.getvalue().endswith("\r" if shown else "")
        covered = " " * len("copying [############            ]  50%")
        assert stream.getvalue().split("\r")[-2:] == ([covered, ""] if shown else [""])

"""The example cluster with snapshots: scripts, the state that it saves, the bar of who is brought up."""

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_raft
from tests.processes.programs import CLUSTER, run_program

pytestmark = pytest.mark.processes

QUICK = "--heartbeat-timeout=0.4"


# ------------------------------------------------------------------------------------------- scripts


async def test_script_snapshots_bring_up_who_was_away(tmp_path: Path) -> None:
    """A follower and a leader that were away past the trailing log are brought up by snapshots, and nothing is lost."""
    script = (
        "write 100; kill follower; write 200; snapshot; write 50; restart; write 10; "
        "kill leader; write 100; restart; verify"
    )
    options = (QUICK, "--snapshot-threshold=40", "--trailing=10", f"--directory={tmp_path / 'data'}", "--json")
    ended = await run_program(CLUSTER, *options, "--script", script)
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (460, 0, 0, True)
    assert found["compared"] == ["n1", "n2", "n3"]
    assert found["snapshots_installed"] >= 2
    assert found["snapshots_taken"] >= 3
    assert min(found["first_index"].values()) > 400 - 40
    said = " ".join(event["text"] for event in found["events"])
    assert "the newest snapshot of n" in said
    assert "is being brought up by snapshot" in said
    assert ": 100 % " in said
    assert " installed snapshot " in said
    # Two are kept; the script's end kills the nodes, and one of them may be in the middle of making a third.
    names = [path.name for path in (tmp_path / "data").glob("n1/snapshot-*")]
    assert len([name for name in names if name.endswith(".snapshot")]) >= 2
    assert len(names) <= 3, names


async def test_script_snapshot_after_every_entry() -> None:
    """A snapshot after every entry and no trailing log at all cost no acknowledged write, through kills and a pause."""
    script = (
        "write 60; pause follower; write 20; kill leader; resume follower; write 60; restart; "
        "kill follower; write 20; restart; verify"
    )
    ended = await run_program(
        CLUSTER, QUICK, "--snapshot-threshold=1", "--trailing=0", "--json", "--nodes=5", "--script", script
    )
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (160, 0, 0, True)
    assert found["crashed"] == []
    assert min(found["first_index"].values()) > 100


async def test_script_restart_from_own_snapshot() -> None:
    """A node that was killed restarts from its own snapshot, applies once what came after, and is sent none (S8)."""
    script = "write 50; snapshot; write 5; kill leader; restart; write 5; verify"
    ended = await run_program(CLUSTER, QUICK, "--snapshot-threshold=0", "--json", "--script", script)
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["lost"], found["phantom"], found["identical"]) == (0, 0, True)
    assert (found["snapshots_taken"], found["snapshots_installed"]) == (1, 0)
    assert any(" state restored from snapshot 5" in event["text"] for event in found["events"])
    [applied] = [event["text"] for event in found["events"] if "restarted → caught up" in event["text"]]
    assert int(applied.split()[-3]) < 20


async def test_script_snapshot_without_a_leader() -> None:
    """Where nobody leads, the verb ends with the program's patience, and says what was missing."""
    script = "write 5; kill follower; kill follower; sleep 1; snapshot"
    ended = await run_program(CLUSTER, QUICK, "--json", "--patience=2", "--script", script)
    assert ended.status == 3, ended
    assert ended.last_json["error"].startswith("snapshot: no snapshot (no leader) within 2 s")


@pytest.mark.parametrize("option", ["--snapshot-threshold", "--trailing"])
@pytest.mark.parametrize("word", ["-1", "many", "1.5"])
def test_option_wrong_number(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, word: str
) -> None:
    """A number of entries that is none ends the program with status 2, and is named."""
    monkeypatch.setattr(sys, "argv", ["cluster.py", f"{option}={word}"])
    with pytest.raises(SystemExit) as ended:
        demo("arguments").read_arguments("")
    assert ended.value.code == 2
    assert f"argument {option}: must be a whole number, 0 or more, not {word}" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- the state


def test_state_survives_pieces_cut_anywhere(demo: Any) -> None:
    """What is restored is the state of the moment of the capture, wherever its bytes are cut on their way."""
    module = demo("machine")
    machine, count = module.KeyValue(), 2 * module.KEYS_AT_A_TIME + 1
    for index in range(1, count + 1):
        machine.apply(committed(module, index, f"key {index}"))
    captured = machine.snapshot()
    machine.apply(committed(module, count + 1, "too late"))
    machine.apply(committed(module, count + 2, "key 1"))
    expected = {f"key {index}": ("a\nvalue", (index,)) for index in range(1, count + 1)}

    whole = b"".join(captured)
    for size in (1, 7, 4096, len(whole)):
        restored = module.KeyValue()
        restored.apply(committed(module, 1, "from before"))
        pieces = (whole[start : start + size] for start in range(0, len(whole), size))
        restored.restore(saved(count, pieces))
        assert restored.entries == expected


def test_state_that_is_empty(demo: Any) -> None:
    """The state of a cluster to which nobody wrote is saved and restored as well."""
    machine = demo("machine").KeyValue()
    assert list(machine.snapshot()) == []
    machine.restore(saved(1, iter([])))
    assert machine.entries == {}


def committed(module: Any, index: int, key: str) -> trio_raft.Committed[Any]:
    return trio_raft.Committed(trio_raft.LogIndex(index), trio_raft.Term(1), module.Put(key, "a\nvalue"))


def saved(index: int, pieces: Any) -> trio_raft.SavedState:
    return trio_raft.SavedState(trio_raft.LogIndex(index), trio_raft.Term(1), version=1, pieces=pieces)


# ------------------------------------------------------------------------------------------- what is shown


def status(demo: Any, **details: Any) -> Any:
    """What a follower says of itself."""
    said = {
        "role": "follower",
        "term": 1,
        "leader": "n1",
        "commit_index": 2600,
        "last_applied": 1040,
        "entries_applied": 0,
        "why_no_leader": "",
        "lags": {},
        "contact_ages": {},
        "first_index": 1,
        "last_index": 1040,
        "snapshot_index": 0,
        "snapshots_taken": 0,
        "snapshots_installed": 0,
        "receiving": None,
        "restoring": False,
    }
    return demo("child").Status.read(said | details)


def test_snapshots_are_counted_over_all_processes(demo: Any, tmp_path: Path) -> None:
    """A node that was started again counts its snapshots from 0: what its processes counted is added up."""
    child = demo("child").Child("n1", [], log=tmp_path / "log", on_change=lambda: None, on_event=lambda _text: None)
    assert child.snapshots() == (0, 0)
    child.status = status(demo, snapshots_taken=3, snapshots_installed=1)
    assert child.snapshots() == (3, 1)
    child._end()
    assert child.snapshots() == (3, 1)
    child.status = status(demo, snapshots_taken=2, snapshots_installed=2)
    assert child.snapshots() == (5, 3)


RECEIVING = {"index": 2600, "done": 400_000, "total": 1_000_000, "bytes_per_second": 2e6, "seconds_left": 3.2}


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        ({"receiving": RECEIVING}, ["n1", "snapshot 2,600", "40 %, 2.0 MB/s, 3 s left"]),
        ({"receiving": {**RECEIVING, "seconds_left": None}}, ["n1", "snapshot 2,600", "40 %, 2.0 MB/s"]),
        ({"restoring": True, "snapshot_index": 2600}, ["n1", "snapshot 2,600", "is being restored"]),
        ({}, ["n1", "entry 2,600", "40 %"]),
        ({"last_applied": 2600}, []),
    ],
    ids=["arriving", "arriving, no rate yet", "restoring", "from the log", "caught up"],
)
async def test_bar_of_who_is_brought_up(demo: Any, tmp_path: Path, details: dict[str, Any], shown: list[str]) -> None:
    """Under the table a bar shows how far a node is, by a snapshot or by entries; and none where nothing is missing."""
    pytest.importorskip("rich", reason="the live view needs rich")
    from rich.console import Console  # it is optional

    module = demo("cluster")
    async with trio.open_nursery() as nursery:
        feed = module.Feed(show=lambda _line: None)
        cluster = module.Cluster(nursery, feed, tmp_path, size=1, node_options=[], patience=1)
    [child] = cluster.children.values()
    child.condition, child.status = demo("child").Condition.RUNNING, status(demo, **details)
    cluster.catching_up["n1"] = 2600
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(demo("live")._bars(cluster))
    words = capture.get().replace("━", " ").replace("╸", " ").replace("╺", " ").split("  ")
    assert [word.strip() for word in words if word.strip()] == ([f"{shown[0]} {shown[1]}", *shown[2:]] if shown else [])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            trio_raft.SnapshotReceiving(trio_raft.ServerId("n1"), trio_raft.LogIndex(2600), 2, 5, 1.0, None),
            "n2 is being brought up by snapshot 2600: 40 %",
        ),
        (
            trio_raft.SnapshotInstalled(trio_raft.LogIndex(2600), trio_raft.Term(3), 1234, kept_log=False),
            "n2 installed snapshot 2600: 1,234 bytes",
        ),
        (trio_raft.SnapshotFailed("the disk is full"), "n2: trouble with a snapshot: the disk is full"),
        (trio_raft.LogCompacted(trio_raft.LogIndex(9)), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_event_in_words(demo: Any, event: trio_raft.Event, words: str) -> None:
    """Who is brought up, installs, or fails at a snapshot is told in a sentence; what goes on all the time is not."""
    assert demo("node").describe("n2", event) == words

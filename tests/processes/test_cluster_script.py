"""The example cluster, scripted, shown live, interrupted: real processes, sockets and disks."""

import fcntl
import importlib
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.processes.programs import (
    CLUSTER,
    PATIENCE_SECONDS,
    environment,
    processes_naming,
    run_program,
    start_program,
    wait_until_nobody_names,
)

pytestmark = pytest.mark.processes

QUICK = "--heartbeat-timeout=0.4"

LAST_DRAWN = 3000
"""Characters of a terminal's output that show its last screen."""


# ------------------------------------------------------------------------------------------- scripts


async def test_script_kill_and_restart() -> None:
    """A leader that is killed and restarted costs no acknowledged write, and every replica ends up the same."""
    ended = await run_program(CLUSTER, QUICK, "--json", "--script", "write 80; kill leader; write 80; restart; verify")
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (160, 0, 0, True)
    assert found["compared"] == ["n1", "n2", "n3"]
    assert found["crashed"] == []
    assert len(found["failover_ms"]) == 1
    assert found["failover_ms"][0] > 0
    assert found["writes_per_second"] > 0
    assert found["p99_ms"] >= found["p50_ms"] > 0
    assert any(
        "killed → " in event["text"] and "0 acknowledged writes lost" in event["text"] for event in found["events"]
    )


async def test_script_pause_and_resume() -> None:
    """A leader that was stopped while others took over comes back as a follower and holds the same as they."""
    ended = await run_program(
        CLUSTER, QUICK, "--json", "--script", "write 40; pause leader; write 40; resume leader; write 40; verify"
    )
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (120, 0, 0, True)
    assert found["compared"] == ["n1", "n2", "n3"]
    assert len(found["failover_ms"]) == 1


async def test_script_five_nodes_lose_two() -> None:
    """Five nodes go on without two, and a node that is still stopped is named and not compared."""
    script = "write 30; kill follower; kill leader; write 30; verify; restart; pause n2; write 30"
    ended = await run_program(CLUSTER, QUICK, "--json", "--nodes=5", "--script", script)
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (90, 0, 0, True)
    assert found["compared"] == ["n1", "n3", "n4", "n5"]
    assert found["not_compared"] == ["n2"]


async def test_script_kills_in_a_row() -> None:
    """Leader after leader is killed with nothing between but its restart."""
    script = "write 5; " + "kill leader; restart; write 5; " * 3 + "verify"
    ended = await run_program(CLUSTER, QUICK, "--json", "--script", script)
    found = ended.last_json
    assert ended.status == 0, ended
    assert (found["acknowledged"], found["lost"], found["phantom"], found["identical"]) == (20, 0, 0, True)
    assert len(found["failover_ms"]) == 3


async def test_script_failover_counts_from_a_majority() -> None:
    """The time during which too few nodes ran is no failover: it counts from when a majority ran again."""
    script = "write 5; kill follower; kill leader; sleep 1; restart; write 5"
    ended = await run_program(CLUSTER, QUICK, "--json", "--script", script)
    found = ended.last_json
    assert ended.status == 0, ended
    at = {event["text"]: event["at_s"] for event in found["events"]}
    assert "1 of 3 run: no majority, so no write is acknowledged until one runs again" in at
    told = next(text for text in at if "killed → " in text)
    assert " ms with a majority, 0 acknowledged writes lost" in told
    assert found["failover_ms"][0] <= (at[told] - at["▸ restart"]) * 1000


async def test_script_without_majority() -> None:
    """A script that cannot go on ends after its patience, with what is missing and how every node is."""
    script = "write 5; kill follower; kill follower; write 5"
    ended = await run_program(CLUSTER, QUICK, "--json", "--patience=3", "--script", script)
    found = ended.last_json
    assert ended.status == 3, ended
    assert found["acknowledged"] == 5
    assert found["lost"] is None
    assert found["error"].startswith("write 5: no write was acknowledged within 3 s")
    assert found["error"].count(" is stopped") == 2


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("write 5; slay leader", "verb 2, 'slay leader': 'slay' is no verb"),
        ("write", "verb 1, 'write': write N: N is missing"),
        ("kill", "kill leader|follower|NAME: leader|follower|NAME is missing"),
        ("sleep 1 2", "sleep takes one argument, S"),
        ("write many", "'many' is no number of writes"),
        ("restart n1", "restart takes no arguments"),
        ("snapshot leader", "snapshot takes no arguments"),
        ("sleep -1", "'-1' is no number of seconds"),
        ("write 5;; verify", "verb 2, '': there is nothing between two semicolons"),
        ("kill n4", "'n4' is none of leader, follower, n1, n2, n3"),
        (" ", "the script is empty"),
    ],
)
def test_script_wrong_words(demo: Any, script: str, problem: str) -> None:
    """A wrong word in a script is named with its verb and position."""
    parse, script_error = demo("script").parse, demo("script").ScriptError
    with pytest.raises(script_error) as caught:
        parse(script, names=["n1", "n2", "n3"])
    assert problem in str(caught.value)


async def test_script_wrong_word_starts_nothing() -> None:
    """A wrong word ends the program with status 2 before a node is started."""
    ended = await run_program(CLUSTER, "--script", "verify; kill everyone")
    assert ended.status == 2
    assert ended.output == ""
    assert "verb 2, 'kill everyone': 'everyone' is none of leader" in ended.errors


@pytest.mark.parametrize("option", ["--seconds", "--rate"])
async def test_script_and_steady_load(option: str) -> None:
    """An option of the steady load beside a script is refused, since it would have no effect."""
    ended = await run_program(CLUSTER, "--script", "verify", option, "5")
    assert ended.status == 2
    assert f"argument {option}: not with --script" in ended.errors


async def test_script_wrong_moment() -> None:
    """A verb that makes no sense when its turn comes is named, and the status is 2."""
    ended = await run_program(CLUSTER, QUICK, "--script", "sleep 0; resume n1")
    assert ended.status == 2
    assert "verb 2, 'resume n1': n1 is running, not paused" in ended.errors


# ------------------------------------------------------------------------------------------- the verdict


def test_verdict_finds_every_fault(demo: Any) -> None:
    """A write that is missing, turned up after a refusal, was never made, or was applied twice is found."""
    writes, verdict = demo("writes"), demo("verdict")
    ledger, outcome = writes.Ledger(), writes.Outcome
    for found in (outcome.ACKNOWLEDGED, outcome.ACKNOWLEDGED, outcome.REFUSED, outcome.UNKNOWN):
        ledger.close(ledger.begin(), found)
    keys = [ledger.key(number) for number in range(1, 5)]

    def dump(*held: tuple[str, tuple[int, ...]]) -> Any:
        return verdict.Dump(9, {key: (ledger.value(key), indices) for key, indices in held})

    def judge(*dumps: Any) -> Any:
        found = verdict.judge(ledger, dict(zip(("n1", "n2"), dumps, strict=False)), not_compared=[])
        return found.lost, found.phantom, found.identical, found.good

    good = dump((keys[0], (2,)), (keys[1], (3,)))
    assert judge(good, good) == (0, 0, True, True)
    assert judge(good, dump((keys[0], (2,)))) == (1, 0, False, False)
    assert judge(dump(), dump()) == (2, 0, True, False)
    assert judge(good, dump((keys[0], (2,)), (keys[1], (4,)))) == (0, 0, False, False)
    with_unknown = dump((keys[0], (2,)), (keys[1], (3,)), (keys[3], (4,)))
    assert judge(with_unknown, with_unknown) == (0, 0, True, True)
    for extra in ((keys[2], (4,)), ("k00000077", (4,)), ("stranger", (4,)), (keys[3], (4, 5))):
        wrong = dump((keys[0], (2,)), (keys[1], (3,)), extra)
        assert judge(wrong, wrong) == (0, 1, True, False)
    other_value = verdict.Dump(9, {**good.entries, keys[3]: ("of another run", (4,))})
    assert judge(other_value, other_value) == (0, 1, True, False)


# ------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("leader", "details", "words"),
    [
        ("n2", {}, "n1 killed → n2 leader of term 3 after 250 ms"),
        ("n1", {}, "n1 killed → n1 leader again, of term 3 after 250 ms"),
        ("n1", {"leader_went_on": True}, "n1 killed → it goes on as leader of term 3 after 250 ms"),
        ("n2", {"lacked_majority": True}, "n1 killed → n2 leader of term 3 after 250 ms with a majority"),
    ],
)
def test_failover_in_words(demo: Any, leader: str, details: dict[str, bool], words: str) -> None:
    """The sentence about a failover says who leads, also if that is whoever was stopped."""
    failover = demo("writes").Failover("n1", "killed", 0.0, 9, term=3, leader_milliseconds=250.0, **details)
    assert importlib.import_module("cluster").describe_failover(failover, leader) == words


def test_summary_fits_the_terminal(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the figures of the summary are never broken in two; elsewhere they are one line."""
    demo("writes")
    fit = importlib.import_module("cluster").fit_to_terminal
    items = [f"figure_{number} {10**number}" for number in range(9)]
    assert fit(items) == ", ".join(items)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = fit(items).split("\n")
    assert max(map(len, lines)) <= 30
    assert " ".join(lines) == ", ".join(items)


# ------------------------------------------------------------------------------------------- one child


async def test_question_to_a_child_that_ends(demo: Any, tmp_path: Path) -> None:
    """A question that still waits to be sent when its child ends has no answer, and is no error of the program."""
    module, lines = demo("child"), demo("lines")
    child = module.Child("n1", [], log=tmp_path / "n1.log", on_change=lambda: None, on_event=lambda _text: None)
    read_end, write_end = os.pipe()
    stream = trio.lowlevel.FdStream(write_end)
    child.condition, child._sender = module.Condition.RUNNING, lines.MessageSender(stream)

    async def ask() -> None:
        with pytest.raises(module.NoAnswer, match="n1 ended"):
            await child.ask({"do": "barrier"}, patience=PATIENCE_SECONDS)

    try:
        async with trio.open_nursery() as nursery:
            async with child._sender._sending:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                await stream.aclose()
    finally:
        os.close(read_end)


# ------------------------------------------------------------------------------------------- ways to end


async def test_interrupt_with_a_paused_node(tmp_path: Path) -> None:
    """Ctrl-C in the middle of writing ends the program, its children and a stopped child too."""
    script = "pause n2; write 1000000"
    async with start_program(CLUSTER, QUICK, f"--directory={tmp_path / 'data'}", "--script", script) as program:
        await program.wait_for_output("write 1000000")
        assert await program.end_by(signal.SIGINT) == 130
    await wait_until_nobody_names(tmp_path)


async def test_killed_controller_leaves_no_child(tmp_path: Path) -> None:
    """Children whose controller was killed end by themselves, a stopped one too."""
    script = "pause n2; sleep 600"
    async with start_program(CLUSTER, QUICK, f"--directory={tmp_path / 'data'}", "--script", script) as program:
        await program.wait_for_output("sleep 600")
        assert len(processes_naming(tmp_path)) == 4
        await program.end_by(signal.SIGKILL)
    await wait_until_nobody_names(tmp_path)


async def test_steady_load_in_plain_lines(tmp_path: Path) -> None:
    """Without a terminal the cluster prints lines, ends when its time is up, checks, and removes its directory."""
    ended = await run_program(CLUSTER, QUICK, "--seconds=1", temporary=tmp_path)
    assert ended.status == 0, ended
    assert "is leader of term" in ended.output
    assert "n1, n2, n3 compared: 0 lost, 0 phantom, identical" in ended.output
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- the live view


class Terminal:
    """The other side of a program's terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""

    async def read_until(self, *wanted: str) -> None:
        """Until all of these words have been drawn since the last call."""
        self.shown = ""
        with trio.move_on_after(PATIENCE_SECONDS):
            while not all(words in self.shown for words in wanted):
                await trio.lowlevel.wait_readable(self._descriptor)
                self.shown += os.read(self._descriptor, 1 << 16).decode(errors="replace")
            return
        pytest.fail(f"{wanted} not drawn; the last was: {self.shown[-LAST_DRAWN:]}")

    def press(self, key: str) -> None:
        """Type."""
        os.write(self._descriptor, key.encode())

    def settings(self) -> list[Any]:
        """What the terminal is set to."""
        return termios.tcgetattr(self._descriptor)


@asynccontextmanager
async def run_in_terminal(*arguments: str) -> AsyncIterator[tuple[Terminal, trio.Process]]:
    """The cluster program on a terminal of 80 columns and 24 lines."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = await trio.lowlevel.open_process(
            [sys.executable, str(CLUSTER), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment(), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        try:
            yield Terminal(ours), process
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
    finally:
        os.close(ours)
        os.close(theirs)


async def test_live_view_keys() -> None:
    """The live view obeys its keys, shows the failover in words, and gives the terminal back as it was."""
    pytest.importorskip("rich", reason="the live view needs rich")
    async with run_in_terminal(QUICK) as (terminal, process):
        before = terminal.settings()
        await terminal.read_until("is leader of term", "quit", "writes/s")
        assert terminal.settings() != before
        terminal.press("r")
        await terminal.read_until("nothing is stopped")
        terminal.press("c")
        await terminal.read_until("nothing is paused")
        terminal.press("\x1b[A")
        await terminal.read_until("does nothing here")
        terminal.press("s")
        await terminal.read_until("the newest snapshot of n")
        terminal.press("k")
        await terminal.read_until("killed → ", "0 acknowledged writes lost")
        terminal.press("f")
        await terminal.read_until("1 of 3 run: no majority; press r")
        terminal.press("r")
        await terminal.read_until("restarted → caught up")
        terminal.press("q")
        await terminal.read_until("n1, n2, n3 compared: 0 lost, 0 phantom, identical", "acknowledged")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await process.wait() == 0
        assert terminal.settings() == before

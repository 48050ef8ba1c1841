"""The comparison measures each system in turn, says which is missing, and ends cleanly when it is told to."""

import itertools
import signal
import xml.etree.ElementTree as ElementTree
from operator import attrgetter
from pathlib import Path

import pytest
from comparison.plot import svg
from comparison.systems import PEER_SYSTEMS, System
from comparison.tables import Row, add_ratios, medians, print_table

from tests.processes.programs import COMPARE, run_program, start_program, wait_until_nobody_names

pytestmark = pytest.mark.processes

TINY = ("--rounds=1", "--seconds=0.3", "--json")


async def test_compare_rows_and_picture(tmp_path: Path) -> None:
    """Each system has a row for each number of callers, beside the subject's ratio, and a line in the picture."""
    picture = tmp_path / "picture.svg"
    directory = tmp_path / "data"
    directory.mkdir()
    options = ("--systems=trio_raft,skeleton", "--callers=1,16", f"--plot={picture}", f"--directory={directory}")
    ended = await run_program(COMPARE, *options, *TINY)
    assert ended.status == 0, ended
    rows = ended.last_json["table"]
    assert [(row["callers"], row["system"]) for row in rows] == list(
        itertools.product((1, 16), ("trio_raft", "skeleton"))
    )
    for row in rows:
        assert row["writes_per_second"] > 0
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert row["entries_per_sync"] >= 1
        assert row["cpu_us_per_command"] >= row["leader_cpu_us_per_command"]
        assert 0 <= row["others_percent"] <= 100
        assert row["ratio"] == pytest.approx(1) or row["system"] == "skeleton"
    assert picture.read_text().count("<polyline") == 4
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("peer", PEER_SYSTEMS, ids=attrgetter("name"))
async def test_compare_peer(peer: System, tmp_path: Path) -> None:
    """A peer that is installed has its rows, durable or not."""
    if why_not := peer.missing():
        pytest.skip(why_not)
    ended = await run_program(COMPARE, f"--systems={peer.name}", "--callers=4", f"--directory={tmp_path}", *TINY)
    assert ended.status == 0, ended
    [row] = ended.last_json["table"]
    assert row["writes_per_second"] > 0
    assert row["ratio"] is None


@pytest.mark.parametrize(
    ("measure", "figure"),
    [
        ("submit", "commands_per_second"),
        ("nodes", "leader_cpu_us_per_command"),
        ("failover", "median_ms"),
        ("idle", "busiest_follower_core_percent"),
        ("elections", "elections"),
        ("steady", "leader_memory_mib"),
    ],
)
async def test_compare_measure(measure: str, figure: str, tmp_path: Path) -> None:
    """Everything else that can be measured has its figure too."""
    options = ("--systems=trio_raft", "--minutes=0.005", f"--directory={tmp_path}")
    ended = await run_program(COMPARE, measure, *options, *TINY)
    assert ended.status == 0, ended
    for row in ended.last_json["table"]:
        assert row[figure] >= 0
    assert list(tmp_path.iterdir()) == []


async def test_compare_raw_bytes(tmp_path: Path) -> None:
    """Large commands stand beside the same bytes without Raft."""
    ended = await run_program(COMPARE, "sizes", "--callers=4", f"--directory={tmp_path}", *TINY)
    assert ended.status == 0, ended
    rows = ended.last_json["table"]
    assert {row["system"] for row in rows} == {"trio_raft", "raw-bytes"}
    assert all(row["megabytes_per_second"] > 0 for row in rows)


async def test_compare_missing_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is not installed is named, with the command that installs it; the others are measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = await run_program(COMPARE, "--systems=hashicorp,skeleton", "--callers=1", *TINY)
    assert ended.status == 0, ended
    assert "skipped: hashicorp is not installed" in ended.errors
    assert "benchmarks/peers/install.sh" in ended.errors
    assert [row["system"] for row in ended.last_json["table"]] == ["skeleton"]


async def test_compare_failure(tmp_path: Path) -> None:
    """A system that fails has no row and is named with its reason; the exit status tells, and the others go on."""
    options = ("--systems=skeleton,trio_raft", f"--directory={tmp_path}")
    ended = await run_program(COMPARE, "submit", "--callers=256", *options, *TINY)
    assert ended.status == 1, ended
    assert [row["system"] for row in ended.last_json["table"]] == ["trio_raft"]
    [failure] = ended.last_json["failures"]
    assert failure.startswith("round 1, skeleton: ")
    assert "'submit'" in failure
    assert list(tmp_path.iterdir()) == []


async def test_compare_interrupted(tmp_path: Path) -> None:
    """Ctrl-C shows what was measured so far, and ends every process; nothing is left in the directory."""
    options = ("--systems=skeleton", "--callers=1", "--seconds=0.2", "--rounds=1000", f"--directory={tmp_path}")
    async with start_program(COMPARE, *options, errors_too=True) as program:
        await program.wait_for_output("round 2, skeleton: 1 callers")
        program.process.send_signal(signal.SIGINT)
        await program.wait_for_output("writes_per_second")
        assert await program.process.wait() == 130
    await wait_until_nobody_names(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", ["--systems=nobody", "--callers=0", "--rounds=0", "--seconds=inf", "--command-bytes=7", "--plot=/no/x.svg"]
)
async def test_compare_wrong_arguments(wrong: str) -> None:
    """A wrong argument is named, and nothing is started."""
    ended = await run_program(COMPARE, wrong)
    assert ended.status == 2
    assert wrong.split("=", maxsplit=1)[0] in ended.errors


def test_tables_ratio_is_within_a_round() -> None:
    """A ratio compares two systems in one round; the median of ratios is not the ratio of medians."""
    rows: list[Row] = [
        {"system": system, "round": number, "writes": writes}
        for system, figures in {"ours": (10, 40, 90), "theirs": (10, 20, 30)}.items()
        for number, writes in enumerate(figures)
    ]
    add_ratios(rows, "writes", subject="ours", keys=())
    ours, theirs = medians(rows, ["system"])
    assert ours == {"system": "ours", "writes": 40, "ratio": 1, "rounds": 3}
    assert theirs == {"system": "theirs", "writes": 20, "ratio": 2, "rounds": 3}


def test_tables_unknown_figures_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line of names and one for each row, aligned; what is not known is a dash."""
    print_table(
        [{"system": "a", "writes": 1234.0}, {"system": "b", "writes": None}], {"system": "{}", "writes": "{:,.0f}"}
    )
    names, known, unknown = capsys.readouterr().out.splitlines()
    assert names.split() == ["system", "writes"]
    assert known.split() == ["a", "1,234"]
    assert unknown.split() == ["b", "–"]
    assert len(names) == len(known) == len(unknown)


def test_plot_is_a_picture_of_every_system() -> None:
    """The picture is well formed, has a line for each system in both panels, and marks those that stand aside."""
    rows: list[Row] = [
        {"system": system, "callers": callers, "writes_per_second": 1000.0 * callers, "p99_ms": 1.0 * callers}
        for system in ("aside", "ours", "x<y")
        for callers in (1, 64)
    ]
    root = ElementTree.fromstring(svg(rows, subject="ours", aside=["aside"], caption="a & b"))
    lines = [element.attrib["class"] for element in root.iter() if element.tag.endswith("polyline")]
    assert lines == ["line subject", "line aside", "line"] * 2

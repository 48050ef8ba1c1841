"""The throughput benchmark prints its rows, and ends cleanly when it is told to."""

import signal
from pathlib import Path

import pytest

from tests.processes.programs import THROUGHPUT, run_program, start_program, wait_until_nobody_names

pytestmark = pytest.mark.processes


async def test_benchmark_rows(tmp_path: Path) -> None:
    """The last line is a list with one row of figures for each number of callers, and callers share syncs."""
    ended = await run_program(THROUGHPUT, "--callers=1,16", "--seconds=0.3", "--json", f"--directory={tmp_path}")
    assert ended.status == 0, ended
    one, sixteen = ended.last_json
    assert (one["callers"], sixteen["callers"]) == (1, 16)
    for row in (one, sixteen):
        assert row["writes_per_second"] > 0
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert row["cpu_us_per_command"] > row["leader_cpu_us_per_command"] > 0
    assert one["entries_per_sync"] == pytest.approx(1, abs=0.2)
    assert sixteen["entries_per_sync"] > 2
    assert list(tmp_path.iterdir()) == []


async def test_benchmark_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the benchmark and its nodes, and its directory is gone."""
    options = ("--callers=4", "--seconds=600", f"--directory={tmp_path}")
    async with start_program(THROUGHPUT, *options, errors_too=True) as program:
        await program.wait_for_output(" leads; ")
        assert await program.end_by(signal.SIGINT) == 130
    await wait_until_nobody_names(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["--callers=0", "--callers=many", "--seconds=-1", "--command-bytes=7"])
async def test_benchmark_wrong_arguments(wrong: str) -> None:
    """A wrong argument is named, and nothing is started."""
    ended = await run_program(THROUGHPUT, wrong)
    assert ended.status == 2
    assert wrong.split("=", maxsplit=1)[0] in ended.errors

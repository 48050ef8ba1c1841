"""The small examples run as their own text says."""

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.processes.programs import (
    CLUSTER,
    COUNTER,
    THROUGHPUT,
    run_program,
    start_program,
    three_ports_in_a_row,
)

pytestmark = pytest.mark.processes


def counted_to(total: int) -> Callable[[str], bool]:
    """Whether a node has printed at least this total."""
    return lambda output: max(map(int, re.findall(r"the counter is (\d+)", output)), default=0) >= total


async def test_counter_goes_on_without_its_leader(tmp_path: Path) -> None:
    """Three counters agree; the two that are left go on counting from where their leader was, and it comes back."""
    options = (f"--directory={tmp_path}", f"--port={three_ports_in_a_row()}")
    async with (
        start_program(COUNTER, "n1", *options) as first,
        start_program(COUNTER, "n2", *options) as second,
        start_program(COUNTER, "n3", *options) as third,
    ):
        programs = {"n1": first, "n2": second, "n3": third}
        await first.wait_until(counted_to(1))
        follows = re.search(r"follows (n\d)", first.output)
        leader = follows.group(1) if follows else "n1"
        assert await programs.pop(leader).end_by(signal.SIGINT) == 0
        for program in programs.values():
            await program.wait_until(counted_to(3))
        async with start_program(COUNTER, leader, *options) as again:
            await again.wait_until(counted_to(4))


async def test_counter_port_in_use(tmp_path: Path) -> None:
    """A second program of the same name ends with one line that names what is in use."""
    options = (f"--directory={tmp_path}", f"--port={three_ports_in_a_row()}")
    async with start_program(COUNTER, "n1", *options) as first:
        await first.wait_for_output("n1 listens")
        ended = await run_program(COUNTER, "n1", *options)
    assert ended.status == 1
    assert ended.errors.startswith("n1: ")
    assert ended.errors.count("\n") == 1


async def test_counter_explains_itself() -> None:
    """The help says how to run it."""
    ended = await run_program(COUNTER, "--help")
    assert ended.status == 0
    assert "in three terminals" in ended.output


@pytest.mark.parametrize("program", [CLUSTER, COUNTER, THROUGHPUT], ids=lambda program: program.stem)
async def test_program_without_its_requirements(program: Path) -> None:
    """A Python that lacks what a program needs is told in one line how to get one that has it."""
    # -S: without the packages that are installed; -E: nor those that the environment names.
    command = [sys.executable, "-S", "-E", str(program), "--help"]
    ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert b"No module named" in ended.stderr
    assert b"run `make demo` once, then .venv/bin/python" in ended.stderr
    assert ended.stderr.count(b"\n") == 1

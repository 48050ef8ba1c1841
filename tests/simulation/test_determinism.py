"""One seed, one run: within a process, across processes, and never by halves."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio._core import _run as scheduler

from trio_raft.testing._determinism import DeterminismUnavailable, Latency, divide, run

SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
SCRIPT = Path(__file__).parent / "scripted_run.py"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def plain_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio as it is by itself: importing hypothesis turns the switch on for the whole process."""
    monkeypatch.setattr(scheduler, SWITCH, False)


async def order_of_turns() -> list[int]:
    """The order in which eight tasks get three turns each."""
    order: list[int] = []

    async def turn(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(turn, number)
    return order


def test_run_same_seed() -> None:
    """The same seed gives the same order of tasks, as often as one likes."""
    assert len({tuple(run(order_of_turns, seed=7)) for _ in range(10)}) == 1


def test_run_other_seeds() -> None:
    """Other seeds give other orders: the scheduler is part of what a seed draws."""
    assert len({tuple(run(order_of_turns, seed=seed)) for seed in range(20)}) == 20


def test_run_time_is_virtual() -> None:
    """A run starts at 0 and takes no real time to wait."""

    async def wait(seconds: float) -> tuple[float, float]:
        began = trio.current_time()
        await trio.sleep(seconds)
        return began, trio.current_time()

    assert run(wait, 1e6, seed=1) == (0.0, 1e6)


def test_run_leaves_no_trace() -> None:
    """After a run, also one that failed, the scheduler is as it was: neither seeded nor sorted."""

    async def fail() -> None:
        raise KeyError("as it should")

    generator: random.Random = vars(scheduler)["_r"]
    before = generator.getstate(), vars(scheduler)[SWITCH]
    run(order_of_turns, seed=1)
    assert (generator.getstate(), vars(scheduler)[SWITCH]) == before
    with pytest.raises(KeyError, match="as it should"):
        run(fail, seed=1)
    assert (generator.getstate(), vars(scheduler)[SWITCH]) == before


@pytest.mark.parametrize("missing", [SWITCH, "_r", "unrolled_run"])
def test_run_on_another_trio(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trio whose scheduler is built otherwise is named, and nothing runs."""
    monkeypatch.delattr(scheduler, missing)
    with pytest.raises(DeterminismUnavailable, match=f"^Trio {trio.__version__} ") as caught:
        run(order_of_turns, seed=1)
    assert "_determinism.py" in str(caught.value)


def test_run_on_a_trio_that_ignores_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not enough that the switch exists: the scheduler must ask it."""
    monkeypatch.setattr(scheduler, "unrolled_run", order_of_turns)
    with pytest.raises(DeterminismUnavailable, match=SWITCH):
        run(order_of_turns, seed=1)


def test_processes_with_other_hash_seeds_agree() -> None:
    """Two processes with different hash seeds see whole nodes do the same under the same faults."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    one, other = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert one == other
    assert int(one.split()[0]) > 100


def test_divide() -> None:
    """Each purpose has a generator of its own, and the same one every time."""
    assert divide(1, "disk", "n1").random() == divide(1, "disk", "n1").random()
    draws = {
        divide(seed, *purpose).random() for seed in (1, 2) for purpose in (("disk", "n1"), ("disk", "n2"), ("net",))
    }
    assert len(draws) == 6


def test_latency_bounds() -> None:
    """Most draws are near what is typical, the share of the tail is not, and nothing exceeds the longest."""
    latency, generator = Latency(0.001, jitter=0.5, tail=0.1, longest=0.05), random.Random(1)
    draws = [latency.draw(generator) for _ in range(10_000)]
    slow = [seconds for seconds in draws if latency.is_slow(seconds)]
    assert min(draws) >= 0.0005
    assert max(draws) == 0.05
    assert 900 < len(slow) < 1100
    assert max(seconds for seconds in draws if not latency.is_slow(seconds)) < 0.0015


def test_latency_constant() -> None:
    """Without jitter and tail nothing is drawn."""
    generator = random.Random(1)
    state = generator.getstate()
    assert Latency(0.25).draw(generator) == 0.25
    assert generator.getstate() == state

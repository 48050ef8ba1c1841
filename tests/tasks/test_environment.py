"""The seam for time, chance and blocking work: the timer that tells silence from a pause, and the lanes."""

import math
import random
import threading
import weakref

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.leftovers import descriptors_now, nothing_left
from trio_raft._environment import (
    Lane,
    TrioClock,
    draw_interval,
    sleep_until_due,
)
from trio_raft._lanes import ThreadLanes, real_environment
from trio_raft.testing._environment import test_environment

INTERVAL = 1.0


@attrs.define
class PausingClock(TrioClock):
    """A clock whose sleeps may end late, as after a stop and continue: the delays, one for each sleep, then none."""

    delays: list[float]
    sleeps: list[tuple[float, float]] = attrs.field(factory=list)
    """From when until when each sleep was."""

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        began = self.now()
        await trio.sleep_until(deadline + (self.delays.pop(0) if self.delays else 0))
        self.sleeps.append((began, self.now()))


async def due_at(clock: PausingClock, deadline: float) -> float:
    await sleep_until_due(clock, lambda: deadline, interval=INTERVAL)
    return clock.now()


async def test_sleep_until_due_on_time(autojump_clock: MockClock) -> None:
    """An alarm that rings on time is believed at once (E10)."""
    assert await due_at(PausingClock([]), 10) == 10


async def test_sleep_until_due_in_the_past_for_a_moment(autojump_clock: MockClock) -> None:
    """A deadline that has only just passed when it is asked for is due at once (E10)."""
    await trio.sleep(10.4)
    assert await due_at(PausingClock([]), 10) == 10.4


@pytest.mark.parametrize(("late", "expected"), [(0.5, 10.5), (0.51, 11.51), (100.0, 111.0)])
async def test_sleep_until_due_rings_late(autojump_clock: MockClock, late: float, expected: float) -> None:
    """An alarm that rings more than half an interval late is looked at again one interval later (E10, K2)."""
    assert await due_at(PausingClock([late]), 10) == pytest.approx(expected)


async def test_sleep_until_due_second_look_is_late_too(autojump_clock: MockClock) -> None:
    """The second look is the last, however late it rings: a slow machine still gets to campaign (E10)."""
    clock = PausingClock([50.0, 70.0])
    assert await due_at(clock, 10) == pytest.approx(10 + 50 + INTERVAL + 70)
    assert len(clock.sleeps) == 2


async def test_sleep_until_due_deadline_moves_during_the_second_look(autojump_clock: MockClock) -> None:
    """What arrives while it looks again moves the deadline, and the silence has to be proven anew (E10, K2)."""
    clock = PausingClock([100.0])
    deadline = 10.0

    async def hear() -> None:
        nonlocal deadline
        await trio.sleep_until(110.5)
        deadline = 120.0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await sleep_until_due(clock, lambda: deadline, interval=INTERVAL)
        assert trio.current_time() == 120.0


async def test_sleep_until_due_paused_again_after_hearing(autojump_clock: MockClock) -> None:
    """Having heard something, a second pause gets its own second look (E10)."""
    clock = PausingClock([100.0, 0.0, 100.0])
    deadline = 10.0

    async def hear() -> None:
        nonlocal deadline
        await trio.sleep_until(110.5)
        deadline = 120.0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await sleep_until_due(clock, lambda: deadline, interval=INTERVAL)
    assert trio.current_time() == pytest.approx(120 + 100 + INTERVAL)


async def test_sleep_until_due_follows_a_moving_deadline(autojump_clock: MockClock) -> None:
    """While others keep moving the deadline it sleeps on, and wakes once for each deadline that it slept for."""
    clock = PausingClock([])
    heard = [0.0]

    async def hear() -> None:
        for _ in range(100):
            await trio.sleep(0.9)
            heard[0] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await sleep_until_due(clock, lambda: heard[0] + 10, interval=INTERVAL)
    assert trio.current_time() == pytest.approx(100 * 0.9 + 10)
    assert len(clock.sleeps) < 15


def test_draw_interval_is_spread_and_injected() -> None:
    """Waits are drawn from [t, 2t), and differently on nodes with different generators (E9)."""
    draws = [draw_interval(test_environment(seed), 3.0) for seed in range(200)]
    assert all(3.0 <= draw < 6.0 for draw in draws)
    assert len(set(draws)) == 200
    environment = test_environment(1)
    again = random.Random(1)
    assert [draw_interval(environment, 1.0) for _ in range(5)] == [1 + again.random() for _ in range(5)]


async def test_thread_lanes_keep_order_in_a_lane() -> None:
    """Within a lane work runs one at a time, in the order of arrival."""
    lanes, ran, inside = ThreadLanes(), list[int](), [0]

    def work(number: int) -> None:
        inside[0] += 1
        assert inside[0] == 1
        ran.append(number)
        inside[0] -= 1

    async with trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            await lanes(Lane.JOURNAL, work, number)

        for number in range(20):
            nursery.start_soon(ask, number)
            await trio.lowlevel.checkpoint()
    assert ran == list(range(20))
    lanes.close()


async def test_thread_lanes_are_apart_from_each_other_and_from_the_users_threads() -> None:
    """A hung read delays no journal write, nor does a program that has taken all of Trio's own threads."""
    lanes, go = ThreadLanes(), threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes, Lane.READ, go.wait, 30)
        for _ in range(int(limiter.total_tokens)):
            nursery.start_soon(trio.to_thread.run_sync, go.wait, 30)
        while limiter.borrowed_tokens < limiter.total_tokens:
            await trio.lowlevel.checkpoint()
        assert await lanes(Lane.JOURNAL, threading.current_thread) is not threading.main_thread()
        go.set()
    lanes.close()


async def test_thread_lanes_abandon_a_hung_call() -> None:
    """A cancel leaves a hung call behind; the lane stays taken until that call returns."""
    lanes, entered, go, ran = ThreadLanes(), threading.Event(), threading.Event(), list[str]()

    def hang() -> None:
        entered.set()
        go.wait(30)
        ran.append("hung")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes, Lane.JOURNAL, hang)
        await trio.to_thread.run_sync(entered.wait, 30)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes, Lane.JOURNAL, ran.append, "next")
        await trio.testing.wait_all_tasks_blocked()
        assert ran == []
        go.set()
    assert ran == ["hung", "next"]
    lanes.close()


async def test_thread_lanes_raise_what_the_function_raises() -> None:
    """An error in the thread is the caller's error."""
    lanes = ThreadLanes()
    with pytest.raises(ZeroDivisionError):
        await lanes(Lane.READ, lambda: 1 // 0)
    lanes.close()


async def test_trio_clock_is_the_runs_clock(mock_clock: MockClock) -> None:
    """The clock of production is Trio's own, whatever the run was started with."""
    lanes = ThreadLanes()
    clock = real_environment(lanes).clock
    lanes.close()
    mock_clock.jump(7)
    assert clock.now() == trio.current_time() == 7
    with clock.move_on_after(3) as scope:
        assert scope.deadline == 10
        clock.set_deadline(scope, math.inf)
        assert scope.deadline == math.inf
    with clock.move_on_at(7) as scope:
        await clock.sleep(1)
    assert scope.cancelled_caught
    first = clock.stopwatch()
    assert clock.stopwatch() >= first


def test_real_environment_draws_differ() -> None:
    """Two nodes of one process do not draw the same numbers (E9)."""
    lanes = ThreadLanes()
    assert real_environment(lanes).random.random() != real_environment(lanes).random.random()
    lanes.close()


async def test_lane_survives_a_thread_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no further thread the call fails, and the next one works (R13)."""
    lanes, start = ThreadLanes(), threading.Thread.start

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        await lanes(Lane.READ, int)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await lanes(Lane.READ, int) == 0
    lanes.close()


async def test_lane_keeps_nothing_of_work_that_is_done() -> None:
    """What a piece of work held is free as soon as its caller has gone on: a plan to read old entries pins files."""

    class Plan:
        pass

    def fail(_: Plan) -> None:
        raise ZeroDivisionError

    lanes = ThreadLanes()
    held, done = weakref.WeakSet[Plan](), Plan()
    held.add(done)
    assert await lanes(Lane.READ, repr, done)
    with pytest.raises(ZeroDivisionError):
        await lanes(Lane.READ, fail, done)
    del done
    while held:  # The thread lets go of its own references after it has rung.
        await trio.lowlevel.checkpoint()
    lanes.close()


async def test_lane_survives_whatever_its_work_raises() -> None:
    """What no ``except Exception`` catches is the caller's, too, and the lane goes on (R13)."""
    lanes = ThreadLanes()

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await lanes(Lane.READ, leave)
    assert await lanes(Lane.READ, int) == 0
    lanes.close()


async def test_thread_of_a_closed_lane_ends() -> None:
    """A lane's thread ends with its node."""
    lanes = ThreadLanes()
    thread = await lanes(Lane.JOURNAL, threading.current_thread)
    assert thread.is_alive()
    assert thread is await lanes(Lane.JOURNAL, threading.current_thread)
    lanes.close()
    lanes.close()
    await trio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()


async def test_closing_lanes_leaves_no_descriptor() -> None:
    """Closing gives all back at once, but for the lane whose thread still works: that one does it itself (X2)."""
    entered, go = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        go.wait(30)

    with nothing_left():
        lanes = ThreadLanes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lanes, Lane.JOURNAL, hang)
            await trio.to_thread.run_sync(entered.wait, 30)
            nursery.cancel_scope.cancel()
        lanes.close()
        lanes.close()
        left = sum("socket" in name for name in descriptors_now().values())
        go.set()
        while sum("socket" in name for name in descriptors_now().values()) == left:
            await trio.lowlevel.checkpoint()

"""Blocking work in virtual time: in order, half its latency before and half after, and it can stall."""

from collections.abc import Callable

import trio
import trio.testing
from trio.testing import MockClock

from trio_raft._environment import Lane
from trio_raft.testing._environment import VirtualLanes, test_environment


async def test_call_takes_its_latency(autojump_clock: MockClock) -> None:
    """The function runs in the middle of the call's latency."""
    lanes = VirtualLanes(latency=0.4)
    began = trio.current_time()
    ran_at = await lanes(Lane.JOURNAL, trio.current_time)
    assert round(ran_at - began, 6) == 0.2
    assert round(trio.current_time() - began, 6) == 0.4


async def test_calls_of_a_lane_take_turns(autojump_clock: MockClock) -> None:
    """Within a lane one call runs at a time, in order of arrival; lanes do not wait for each other."""
    lanes = VirtualLanes(latency=1.0)
    finished: list[tuple[str, float]] = []

    async def call(lane: Lane, name: str) -> None:
        await lanes(lane, str)
        finished.append((name, round(trio.current_time(), 6)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, Lane.JOURNAL, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, Lane.JOURNAL, "second")
        nursery.start_soon(call, Lane.READ, "read")
    assert sorted(finished) == [("first", 1.0), ("read", 1.0), ("second", 2.0)]


async def test_stall_holds_calls_before_and_after_the_work(autojump_clock: MockClock) -> None:
    """A stalled lane holds calls that have not begun, and calls that nobody was told of yet."""
    lanes = VirtualLanes(latency=1.0)
    done: list[str] = []

    async def call(note: Callable[[], None]) -> None:
        await lanes(Lane.JOURNAL, note)
        done.append("told")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, lambda: done.append("worked"))
        await trio.sleep(0.7)
        lanes.stall(Lane.JOURNAL)
        await trio.sleep(100)
        assert done == ["worked"]
        lanes.resume()
        await trio.sleep(1)
        assert done == ["worked", "told"]
        lanes.stall()
        nursery.start_soon(call, lambda: done.append("worked again"))
        await trio.sleep(100)
        assert done == ["worked", "told"]
        nursery.cancel_scope.cancel()


async def test_environment_repeats_its_seed(autojump_clock: MockClock) -> None:
    """Two environments of one seed draw the same numbers, and the stopwatch shows virtual time."""
    one, two = test_environment(7), test_environment(7)
    assert one.random.random() == two.random.random()
    assert one.clock.stopwatch() == one.clock.now()

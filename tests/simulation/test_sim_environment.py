"""A node's own clock, and blocking work that takes its time on a simulated disk."""

import errno
import gc
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from trio_raft._environment import Lane
from trio_raft.testing._determinism import Latency, run
from trio_raft.testing._disk import SECTOR_BYTES, SimDisk
from trio_raft.testing._environment import SCOPES_REMEMBERED, SimulatedClock, SimulatedLanes

FILE = Path("/disk/file")
A_SECOND = Latency(1.0)
"""That long takes each call."""


async def rings_at(clock: SimulatedClock, deadline: float, *, note: list[float]) -> None:
    """Sleep, and note when that ended, on the run's clock."""
    await clock.sleep_until(deadline)
    note.append(round(trio.current_time(), 9))


# -------------------------------------------------------------------------------------------- clock


async def test_clock_drifts(autojump_clock: MockClock) -> None:
    """A fast clock shows more than the run's, and its sleeps are shorter."""
    clock = SimulatedClock(rate=1.25, offset=100.0)
    assert (clock.now(), clock.stopwatch()) == (100.0, 100.0)
    await clock.sleep(5)
    assert (trio.current_time(), clock.now()) == (4.0, 105.0)
    with clock.move_on_after(5) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (trio.current_time(), clock.now()) == (8.0, 110.0)


async def test_alarm_is_never_early(autojump_clock: MockClock) -> None:
    """When a sleep ends its deadline has been reached by this clock, whatever is rounded."""
    generator = random.Random(1)
    for _ in range(300):
        clock = SimulatedClock(
            rate=0.9 + generator.random() / 5, offset=generator.random() * 10.0 ** generator.randrange(9)
        )
        deadline = clock.now() + generator.random()
        await clock.sleep_until(deadline)
        assert 0 <= clock.now() - deadline < 1e-6


async def test_clock_jumps_ahead(autojump_clock: MockClock) -> None:
    """A jump rings what is due by then at once, and brings everything else nearer: sleeps and scopes alike."""
    clock, note = SimulatedClock(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rings_at(clock, 5, note=note))
        nursery.start_soon(lambda: rings_at(clock, 20, note=note))
        await trio.sleep(1)
        clock.jump(10)
        assert clock.now() == 11
    assert note == [1.0, 10.0]
    with pytest.raises(ValueError, match="does not go back"):
        clock.jump(-1)
    with pytest.raises(ValueError, match="must be positive"):
        SimulatedClock(rate=0)


async def test_clock_jump_moves_scopes(autojump_clock: MockClock) -> None:
    """A jump moves a deadline that was set later, too, and leaves alone what has none."""
    clock = SimulatedClock(rate=2.0)
    with clock.move_on_at(math.inf) as outer, clock.move_on_at(math.inf) as inner:
        clock.set_deadline(inner, 30)
        clock.jump(10)
        await trio.sleep_forever()
    assert (inner.cancelled_caught, outer.cancelled_caught) == (True, False)
    assert trio.current_time() == 10.0


async def test_pause_holds_timers(autojump_clock: MockClock) -> None:
    """While a clock is paused its time goes on and no timer rings; what ran out rings late, on resume."""
    clock, note = SimulatedClock(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rings_at(clock, 2, note=note))
        nursery.start_soon(lambda: rings_at(clock, 30, note=note))
        await trio.sleep(1)
        clock.pause()
        clock.pause()
        nursery.start_soon(lambda: rings_at(clock, 3, note=note))
        await trio.sleep(9)
        assert (note, clock.now()) == ([], 10.0)
        clock.resume()
        clock.resume()
    assert note == [10.0, 10.0, 30.0]


def test_pause_in_the_moment_of_an_alarm() -> None:
    """A pause in the very turn in which an alarm rings holds it, unless its task had its turn before the pause."""

    async def race() -> str:
        clock, story = SimulatedClock(), list[str]()

        async def alarm() -> None:
            await clock.sleep(1)
            story.append("alarm")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm)
            await trio.sleep(1)
            clock.pause()
            story.append("pause")
            await trio.sleep(1)
            story.append("resume")
            clock.resume()
        return " ".join(story)

    assert {run(race, seed=seed) for seed in range(20)} == {"alarm pause resume", "pause resume alarm"}


async def test_pause_holds_scopes(autojump_clock: MockClock) -> None:
    """Deadlines set before and during a pause are held, and count again after it."""
    clock = SimulatedClock(rate=2.0, offset=7.0)
    with clock.move_on_after(2) as early, clock.move_on_after(20) as late:
        clock.pause()
        with clock.move_on_after(1) as inner:
            clock.set_deadline(early, clock.now() + 100)
            with trio.move_on_after(5):
                await trio.sleep_forever()
            assert not inner.cancelled_caught
            clock.resume()
            await trio.sleep_forever()
        assert inner.cancelled_caught
        assert trio.current_time() == 5.0
        await trio.sleep_forever()
    assert (early.cancelled_caught, late.cancelled_caught) == (False, True)
    assert trio.current_time() == 10.0


async def test_jump_of_a_paused_clock(autojump_clock: MockClock) -> None:
    """A jump during a pause rings nothing until the pause ends."""
    clock, note = SimulatedClock(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rings_at(clock, 50, note=note))
        await trio.sleep(1)
        clock.pause()
        clock.jump(100)
        await trio.sleep(1)
        assert note == []
        clock.resume()
    assert note == [2.0]


async def test_clock_forgets_scopes(autojump_clock: MockClock) -> None:
    """A clock remembers about as many scopes as are alive."""
    clock = SimulatedClock()
    with clock.move_on_after(1e9) as kept:
        for _ in range(10 * SCOPES_REMEMBERED):
            await clock.sleep(0.001)
            clock.set_deadline(kept, 1e9)
        assert len(clock._scopes) <= 2 * SCOPES_REMEMBERED
        gc.collect()
        # The last one of all may still be in somebody's hands.
        assert clock._live()[0] is kept
        assert len(clock._live()) <= 2


# -------------------------------------------------------------------------------------------- lanes


def make_lanes(*, latency: Latency = A_SECOND) -> SimulatedLanes:
    """Lanes on a disk with one durable file of a sector of dots."""
    disk = SimDisk()
    disk.make_directory(FILE.parent)
    descriptor = disk.create(FILE)
    disk.sync_directory(FILE.parent)
    disk.write(descriptor, b"." * SECTOR_BYTES, offset=0)
    disk.sync(descriptor)
    return SimulatedLanes(disk, generator=random.Random(1), latency=latency)


def writing(lanes: SimulatedLanes, letter: bytes) -> Callable[[], str]:
    """Blocking work that writes and syncs."""

    def work() -> str:
        descriptor = lanes.disk.open(FILE, write=True)
        lanes.disk.write(descriptor, letter * SECTOR_BYTES, offset=0)
        lanes.disk.sync(descriptor)
        return f"wrote {letter.decode()}"

    return work


def durable(lanes: SimulatedLanes) -> str:
    """The letter that would survive for certain."""
    return chr(lanes.disk.snapshot().contents(FILE)[0])


async def test_call_is_durable_when_its_latency_has_passed(autojump_clock: MockClock) -> None:
    """A call runs at once; its sync has an effect, and its caller is told, when its time has passed."""
    lanes, told = make_lanes(), list[str]()

    async def call() -> None:
        told.append(await lanes(Lane.JOURNAL, writing(lanes, b"A")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(0.999)
        assert (durable(lanes), chr(lanes.disk.contents(FILE)[0]), told) == (".", "A", [])
        await trio.sleep(0.002)
        assert (durable(lanes), told) == ("A", ["wrote A"])


async def test_crash_during_a_call(autojump_clock: MockClock) -> None:
    """A crash while a call waits may keep what it wrote or not; the call, frozen, never returns."""
    found: set[str] = set()
    for seed in range(40):
        lanes = make_lanes()
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lanes, Lane.JOURNAL, writing(lanes, b"A"))
                await trio.sleep(0.5)
                lanes.freeze()
        assert scope.cancelled_caught
        found.add(chr(lanes.disk.crash(random.Random(seed)).contents(FILE)[0]))
    assert found == {".", "A"}


async def test_frozen_lanes_begin_nothing(autojump_clock: MockClock) -> None:
    """After the freeze no call runs."""
    lanes = make_lanes()
    lanes.freeze()
    with trio.move_on_after(10):
        await lanes(Lane.READ, writing(lanes, b"A"))
    assert lanes.disk.contents(FILE)[:1] == b"."


async def test_pause_holds_completions(autojump_clock: MockClock) -> None:
    """While the node is paused no call is completed and none begins."""
    lanes, told = make_lanes(), list[tuple[str, float]]()

    async def call(lane: Lane, letter: bytes) -> None:
        result = await lanes(lane, writing(lanes, letter))
        told.append((result, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, Lane.JOURNAL, b"A")
        await trio.sleep(0.5)
        lanes.pause()
        nursery.start_soon(call, Lane.READ, b"B")
        await trio.sleep(10)
        assert (told, lanes.disk.contents(FILE)[:1], durable(lanes)) == ([], b"A", ".")
        lanes.resume()
    assert told == [("wrote A", 10.5), ("wrote B", 11.5)]


async def test_stall_for_a_time(autojump_clock: MockClock) -> None:
    """A stalled lane holds its calls for so long, begun or not; the others go on, and the stall is counted."""
    lanes, told = make_lanes(), list[tuple[str, float]]()

    async def call(lane: Lane, name: str) -> None:
        await lanes(lane, str)
        told.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, Lane.JOURNAL, "begun")
        await trio.sleep(0.5)
        lanes.stall(4.5, Lane.JOURNAL)
        nursery.start_soon(call, Lane.JOURNAL, "next")
        nursery.start_soon(call, Lane.READ, "read")
    assert told == [("read", 1.5), ("begun", 5.0), ("next", 6.0)]
    assert lanes.disk.injected == {"stall": 1}


async def test_stall_until_mended(autojump_clock: MockClock) -> None:
    """A stall without an end ends when the lanes are mended."""
    lanes = make_lanes()
    lanes.stall(math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes, Lane.JOURNAL, writing(lanes, b"A"))
        await trio.sleep(1000)
        assert lanes.disk.contents(FILE)[:1] == b"."
        lanes.mend()
    assert durable(lanes) == "A"
    assert trio.current_time() == 1001


async def test_failure_takes_its_time(autojump_clock: MockClock) -> None:
    """A call that fails is told so after its latency, and what it synced before that is durable."""
    lanes = make_lanes()

    def work() -> None:
        writing(lanes, b"A")()
        lanes.disk.fail("sync", errno.EIO)
        writing(lanes, b"B")()

    with pytest.raises(OSError, match="Input/output error"):
        await lanes(Lane.JOURNAL, work)
    assert trio.current_time() == 1.0
    assert durable(lanes) == "A"


async def test_slow_calls_are_counted(autojump_clock: MockClock) -> None:
    """Latency is drawn for each call, from the seeded generator; slow ones are counted."""
    latency = Latency(0.001, jitter=0.5, tail=0.2, longest=2.0)
    times: list[list[float]] = []
    for _ in range(2):
        lanes = make_lanes(latency=latency)
        began, ends = trio.current_time(), list[float]()
        for _ in range(50):
            await lanes(Lane.READ, str)
            ends.append(round(trio.current_time() - began, 9))
        times.append(ends)
        assert 3 <= lanes.disk.injected["slow disk"] <= 20
    assert times[0] == times[1]


async def test_cancelled_call_frees_its_lane(autojump_clock: MockClock) -> None:
    """A call that is cancelled leaves the lane to the next one; what it wrote stays at stake."""
    lanes = make_lanes()
    with trio.move_on_after(0.5):
        await lanes(Lane.JOURNAL, writing(lanes, b"A"))
    assert (lanes.disk.contents(FILE)[:1], durable(lanes)) == (b"A", ".")
    assert await lanes(Lane.JOURNAL, writing(lanes, b"B")) == "wrote B"
    assert durable(lanes) == "B"

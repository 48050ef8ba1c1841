"""A simulated cluster: lives and deaths of its members, faults, the end of a run, and what may never pass."""

import contextlib
import errno
import time
from typing import Any

import attrs
import pytest
import trio

import trio_raft
from tests.simulation.simulated import Counter, simulated, total
from trio_raft import LogCorrupt, RaftInternalError, StateMachineError, StorageError, Timeouts
from trio_raft.testing import (
    ClusterSettings,
    InvariantViolation,
    Latency,
    NodeFailed,
    SimulationFailed,
    TooSlow,
    running_cluster,
)
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._trace import Trace

UNHEALED = ClusterSettings(heals=False)

# ------------------------------------------------------------------------------------ lives


@simulated
async def test_cluster_serves() -> None:
    """A cluster starts, elects a leader, and applies what its clients propose on every member."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client()
        assert [await client.propose(number) for number in (1, 2, 3)] == [1, 3, 6]
        assert await client.read(total) == 6
        await cluster.until(lambda: [total(machine) for machine in machines(cluster)] == [6, 6, 6], "all have applied")


@pytest.mark.parametrize("size", [1, 2, 4, 5, 7])
@simulated
async def test_cluster_of_any_size(size: int) -> None:
    """The number of members is a setting."""
    async with running_cluster(Counter, size=size) as cluster:
        assert len(cluster.ids) == size
        assert await cluster.client().propose(1) == 1


@simulated
async def test_crash_of_all_loses_nothing() -> None:
    """What a client was told survives when the power of all members fails at once (S1)."""
    async with running_cluster(Counter, seed=3) as cluster:
        client = cluster.client()
        for number in range(1, 21):
            await client.propose(number)
        before = cluster.clock.now()
        await cluster.crash(*cluster.ids)
        # At once: nothing was closed in order, and nothing waited for.
        assert cluster.clock.now() == before
        assert cluster.nodes == {"n1": None, "n2": None, "n3": None}
        await cluster.start()
        assert await client.read(total) == 210


@simulated
async def test_crash_takes_unsynced_bytes() -> None:
    """A crash in the middle of a write leaves any part of what was not synced, and a kill leaves all of it."""
    async with running_cluster(Counter, UNHEALED) as cluster:
        leader = await cluster.wait_leader()
        disks = dict(cluster.disks)
        leader.submit_nowait(1)
        await cluster.clock.sleep(0.0001)
        assert disks[leader.node_id].unsynced() != []
        await cluster.crash(leader.node_id)
        assert cluster.disks[leader.node_id] is not disks[leader.node_id]
        assert cluster.disks[leader.node_id].unsynced() == []
        other = await cluster.wait_leader()
        await cluster.kill(other.node_id)
        assert cluster.disks[other.node_id] is disks[other.node_id]


@simulated
async def test_crash_is_silent_and_kill_is_not() -> None:
    """Peers hear nothing from a machine without power, and a reset from one whose process is gone."""
    async with running_cluster(Counter, UNHEALED) as cluster:
        leader = await cluster.wait_leader()
        victims = [id_ for id_ in cluster.ids if id_ != leader.node_id]
        problems: list[trio_raft.ContactLost] = []
        with leader.events() as events:
            await cluster.kill(victims[0])
            await cluster.clock.sleep(0.2)
            await cluster.crash(victims[1])
            await cluster.clock.sleep(0.2)
            while len(problems) < 1:
                event = await events.receive()
                if isinstance(event, trio_raft.ContactLost):
                    problems.append(event)
        assert [problem.peer for problem in problems] == [victims[0]]


@simulated
async def test_kill_and_restart() -> None:
    """A member whose process was killed comes back with its log, as another life."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client()
        await client.propose(5)
        await cluster.kill("n1", "n2", "n3")
        await cluster.restart("n1", "n2", "n3")
        assert await client.read(total) == 5
        assert [member.lives for member in cluster.members.values()] == [2, 2, 2]


@simulated
async def test_crash_of_those_that_are_down() -> None:
    """To crash what is down, and to start what is up, changes nothing."""
    async with running_cluster(Counter) as cluster:
        await cluster.crash("n1")
        await cluster.crash("n1")
        await cluster.kill("n1")
        await cluster.start("n2")
        assert [member.lives for member in cluster.members.values()] == [1, 1, 1]


@simulated
async def test_start_twice_at_once() -> None:
    """A member that two tasks start in the same moment has one life."""
    async with running_cluster(Counter) as cluster:
        await cluster.crash("n1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.start, "n1")
            nursery.start_soon(cluster.start, "n1", "n2")
        assert [member.lives for member in cluster.members.values()] == [2, 1, 1]


@simulated
async def test_crash_while_starting() -> None:
    """A member whose power fails while it reads its log is down, and ``start`` returns."""
    settings = ClusterSettings(disk=Latency(0.05))
    async with running_cluster(Counter, settings) as cluster:
        await cluster.crash("n1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.start, "n1")
            await cluster.clock.sleep(0.02)
            assert sorted(cluster.machines) == ["n1", "n2", "n3"]
            assert cluster.nodes["n1"] is None
            await cluster.crash("n1")
        assert sorted(cluster.machines) == ["n2", "n3"]
        assert cluster.failures == {}


# ------------------------------------------------------------------------------------ faults


@simulated
async def test_partition_of_the_leader() -> None:
    """A leader that is cut off does not count as one; the others elect another, and heal brings it back."""
    async with running_cluster(Counter) as cluster:
        old = await cluster.wait_leader()
        cluster.partition([old.node_id])
        assert old.role == "leader"
        assert cluster.leader() is None
        new = await cluster.wait_leader()
        assert new is not old
        cluster.heal()
        await cluster.until(lambda: old.leader == new.node_id, "the old leader follows the new one")


@simulated
async def test_partition_one_way() -> None:
    """With ``one_way`` only what the first group sends is lost; a leader that nobody hears is replaced (E9)."""
    async with running_cluster(Counter) as cluster:
        old = await cluster.wait_leader()
        others = [id_ for id_ in cluster.ids if id_ != old.node_id]
        cluster.partition([old.node_id], others, one_way=True)
        assert [cluster.network.is_cut(old.node_id, other) for other in others] == [True, True]
        assert [cluster.network.is_cut(other, old.node_id) for other in others] == [False, False]
        assert await cluster.wait_leader() is not old


@simulated
async def test_pause_of_the_leader() -> None:
    """A paused leader is replaced; when it goes on it finds out, and answers nobody before (Q1)."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client()
        assert await client.propose(1) == 1
        old = await cluster.wait_leader()
        cluster.pause(old.node_id)
        assert await cluster.wait_leader() is not old
        assert await client.propose(1) == 2
        assert old.role == "leader"
        cluster.resume(old.node_id)
        await cluster.until(lambda: old.role == "follower", "the old leader steps down")


@simulated
async def test_crash_while_paused() -> None:
    """A member that loses its power while it is paused comes back awake."""
    async with running_cluster(Counter) as cluster:
        await cluster.wait_leader()
        cluster.pause("n1")
        await cluster.crash("n1")
        await cluster.start("n1")
        cluster.partition(["n2"])
        assert await cluster.client().propose(1) == 1


@simulated
async def test_clocks_drift() -> None:
    """Each member's clock runs at a rate of its own, within the bounds that were set."""
    async with running_cluster(Counter, ClusterSettings(drift=0.05)) as cluster:
        began = {id_: clock.now() for id_, clock in cluster.clocks.items()}
        await cluster.clock.sleep(10.0)
        rates = [(clock.now() - began[id_]) / 10.0 for id_, clock in cluster.clocks.items()]
        assert all(0.95 <= rate <= 1.05 for rate in rates)
        assert len(set(rates)) == 3


@simulated
async def test_wiped_disk_is_refused() -> None:
    """A member that comes back with an empty disk takes no part, and the run passes without it (O1)."""
    async with running_cluster(Counter) as cluster:
        assert await cluster.client().propose(1) == 1
        await cluster.restart("n1", disk="wiped")
        assert await cluster.client().propose(1) == 2
        await cluster.clock.sleep(5.0)
        [server] = [server for server in cluster.servers() if server.node_id == "n1"]
        assert not server.ready


@simulated
async def test_old_copy_that_harms_nobody() -> None:
    """A member that comes back with an old copy from before anything was acknowledged catches up."""
    async with running_cluster(Counter) as cluster:
        await cluster.wait_leader()
        await cluster.clock.sleep(1.0)
        cluster.copy_disk("n1")
        await cluster.restart("n1", disk="old copy")
        assert await cluster.client().propose(1) == 1


@simulated
async def test_old_copy_is_noticed() -> None:
    """A leader notices that a member has lost what it acknowledged, counts it no more, and the run passes (R6)."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client()
        await client.propose(1)
        leader = await cluster.wait_leader()
        victim = next(id_ for id_ in cluster.ids if id_ != leader.node_id)
        cluster.copy_disk(victim)
        for _ in range(5):
            await client.propose(1)
        await cluster.clock.sleep(1.0)
        with leader.events() as events:
            await cluster.restart(victim, disk="old copy")
            await client.propose(1)
            await cluster.clock.sleep(2.0)
            seen: list[trio_raft.Event] = []
            with contextlib.suppress(trio.WouldBlock):
                while True:
                    seen.append(events.receive_nowait())
        assert [event.peer for event in seen if isinstance(event, trio_raft.PeerLostData)] == [victim]


@simulated
async def test_cancelled_while_starting() -> None:
    """A cluster that is cancelled while its members read their logs ends quietly too."""
    with trio.move_on_after(0.02) as scope:
        async with running_cluster(Counter, ClusterSettings(disk=Latency(0.05))):
            raise AssertionError("the cluster has started")
    assert scope.cancelled_caught


@simulated
async def test_old_copy_needs_a_copy() -> None:
    """An old copy that nobody took cannot be put in place: an error says what to call, with the seed."""
    with pytest.raises(ValueError, match=r"seed 0: .* call copy_disk before"):
        async with running_cluster(Counter) as cluster:
            await cluster.restart("n1", disk="old copy")


@simulated
async def test_disk_error_is_explained() -> None:
    """An injected error of the disk stops its node, which fails nothing; at the end the node is started again (S2)."""
    async with running_cluster(Counter) as cluster:
        leader = await cluster.wait_leader()
        victim = next(id_ for id_ in cluster.ids if id_ != leader.node_id)
        cluster.disks[victim].fail("sync", errno.EIO)
        await cluster.client().propose(1)
        await cluster.until(lambda: cluster.failures, "the node has failed")
        assert [type(error) for error in cluster.failures.values()] == [StorageError]
        assert list(cluster.failures) == [victim]
    assert cluster.members[victim].lives == 2


@simulated
async def test_flipped_bit_is_explained() -> None:
    """A member whose disk lies refuses to start; the run passes without it (S3)."""
    async with running_cluster(Counter) as cluster:
        for number in range(1, 4):
            await cluster.client().propose(number)
        await cluster.crash("n1")
        disk = cluster.disks["n1"]
        [path] = disk.paths()[:1]
        disk.flip_bit(path, position=700)
        await cluster.start("n1")
        assert isinstance(cluster.failures["n1"], LogCorrupt)


# ------------------------------------------------------------------------------------ failures


class Faulty(Counter):
    """Divides by a number that the test sends."""

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        return super().apply(attrs.evolve(entry, command=100 // (entry.command - 3)))


@simulated
async def test_machine_that_raises() -> None:
    """A state machine that raises fails the run: the error names the seed, the node and the entry (X4)."""
    with pytest.raises(NodeFailed) as caught:
        async with running_cluster(Faulty, seed=17) as cluster:
            await cluster.client().propose(3)
    error = caught.value
    assert error.seed == 17
    assert error.index == 2
    assert str(error).startswith(
        f"seed 17: the state machine of {error.node_id} raised on entry 2 of term 1: ZeroDivisionError: integer div"
    )
    assert isinstance(error.__cause__, StateMachineError)


@simulated
async def test_machine_that_cannot_be_made() -> None:
    """So does one that cannot be made."""

    def broken() -> Counter:
        raise OSError("no more counters")

    with pytest.raises(NodeFailed, match=r"seed 0: n. failed, and no injected fault explains it: .*no more counters"):
        async with running_cluster(broken):
            pass


@simulated
async def test_node_that_fails() -> None:
    """A node that ends by itself fails the run at once, though the block would like to go on."""
    after: list[str] = []
    with pytest.raises(NodeFailed, match=r"n\d failed, and no injected fault explains it") as caught:
        async with running_cluster(Counter) as cluster:
            await cluster.wait_leader()
            [server] = [server for server in cluster.servers() if server.node_id == "n2"]
            vars(server.journal)["_note_durable"] = lambda batch: 1 / 0
            await cluster.client().propose(1)
            await cluster.clock.sleep(30.0)
            after.append("the block went on")
    assert after == []
    assert isinstance(caught.value.__cause__, RaftInternalError)


@simulated
async def test_node_that_fails_while_it_is_crashed() -> None:
    """A node on its way out by an error of its own, slowed by its disk, is not excused by the crash that meets it."""

    def ruin() -> None:
        raise AssertionError("a bug")

    with pytest.raises(NodeFailed, match=r"n\d failed, and no injected fault explains it"):
        async with running_cluster(Counter, UNHEALED) as cluster:
            leader = await cluster.wait_leader()
            cluster.lanes[leader.node_id].stall(0.5)
            server = next(server for server in cluster.servers() if server.node_id == leader.node_id)
            vars(server)["advance_commit"] = ruin
            leader.submit_nowait(1)
            await cluster.clock.sleep(0.3)
            assert cluster.members[leader.node_id].life is not None
            await cluster.crash(leader.node_id)


@simulated
async def test_violation_cannot_be_swallowed() -> None:
    """Whatever the block does after a violation, even returning as if nothing were, the run fails."""
    with pytest.raises(InvariantViolation, match="seed 5: just so"):
        async with running_cluster(Counter, seed=5) as cluster:
            cluster.judge.fail(InvariantViolation(5, "just so"))
            with contextlib.suppress(BaseException):
                await trio.sleep_forever()
            cluster.heal()


@simulated
async def test_violation_beats_the_error_of_the_block() -> None:
    """A violation leaves the block, with the block's own error as its context."""
    with pytest.raises(InvariantViolation, match="just so") as caught:
        async with running_cluster(Counter) as cluster:
            cluster.judge.fail(InvariantViolation(0, "just so"))
            raise KeyError("mine")
    assert isinstance(caught.value.__context__, BaseExceptionGroup)


@simulated
async def test_error_of_the_block() -> None:
    """An error of the block leaves as the very same object, with the seed and the last lines in its notes."""
    mine, reason = AssertionError("3 != 4"), ValueError("why")
    with pytest.raises(AssertionError) as caught:
        async with running_cluster(Counter, ClusterSettings(repeat="Say it again"), seed=12) as cluster:
            await cluster.wait_leader()
            raise mine from reason
    assert caught.value is mine
    assert mine.__cause__ is reason
    notes = "\n".join(mine.__notes__)
    assert "seed 12" in notes
    assert "becomes leader" in notes or "leader" in notes
    assert notes.endswith("Say it again")


@simulated
async def test_cancelled_from_outside() -> None:
    """A cluster in a scope that is cancelled ends, and raises nothing."""
    with trio.move_on_after(10.0) as scope:
        async with running_cluster(Counter):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(10.0)


@simulated
async def test_invariant_of_a_user() -> None:
    """An invariant of your own on all state machines is asked after each command; if it fails, so does the run."""
    with pytest.raises(InvariantViolation, match="stays_small") as caught:
        async with running_cluster(Counter, seed=4) as cluster:
            cluster.invariants.add(stays_small)
            client = cluster.client()
            for _ in range(20):
                await client.propose(1)
    assert caught.value.seed == 4


@simulated
async def test_invariant_that_cannot_be_asked() -> None:
    """An invariant that is an async function would hold for ever, since nobody runs it: it fails the run instead."""

    async def waits(_: object) -> bool:
        return True

    with pytest.raises(InvariantViolation, match="it is an async function"):
        async with running_cluster(Counter) as cluster:
            cluster.invariants.add(waits)
            await cluster.client().propose(1)


def stays_small(machines: Any) -> bool:
    return all(total(machine) < 10 for machine in machines.values())


# ------------------------------------------------------------------------------------ waiting, and the end


@simulated
async def test_time_limit() -> None:
    """A block that waits for what never comes ends after ``time_limit`` virtual seconds, with a picture."""
    with pytest.raises(TooSlow, match=r"seed 0: the block did not end within 50 virtual seconds") as caught:
        async with running_cluster(Counter, ClusterSettings(time_limit=50.0)):
            await trio.sleep_forever()
    assert "n2: " in str(caught.value)


@simulated
async def test_wait_leader_is_bounded() -> None:
    """A leader that cannot be is not waited for without end, and the error shows every member."""
    with pytest.raises(TooSlow, match="a leader: not within 20 virtual seconds") as caught:
        async with running_cluster(Counter) as cluster:
            await cluster.crash("n1", "n2")
            cluster.pause("n3")
            await cluster.wait_leader(within=20.0)
    assert "n1: down" in str(caught.value)
    assert "paused" in str(caught.value)


@simulated
async def test_end_heals_everything() -> None:
    """At the end of the block all is repaired, whoever is down is started, and all members agree."""
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    async with running_cluster(make, size=5) as cluster:
        assert await cluster.client().propose(7) == 7
        await cluster.crash("n1", "n2", "n3")
        cluster.pause("n4")
        cluster.partition(["n5"])
        cluster.disks["n5"].capacity = 1
        cluster.lanes["n5"].stall(float("inf"))
    assert [member.lives for member in cluster.members.values()] == [2, 2, 2, 1, 1]
    assert [total(machine) for machine in made[5:]] == [7, 7, 7]


@simulated
async def test_end_misses_nobody() -> None:
    """A member whose injected error comes to light only while the cluster is repaired has to take part all the same."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client()
        await client.propose(1)
        leader = await cluster.wait_leader()
        victim = next(node_id for node_id in cluster.ids if node_id != leader.node_id)
        cluster.lanes[victim].latency = Latency(1.5)
        cluster.disks[victim].fail("sync", errno.EIO)
        await client.propose(2)
        assert cluster.failures == {}
    assert cluster.members[victim].lives == 2


@simulated
async def test_end_finds_lost_writes() -> None:
    """A write of which a client was told must stand on every disk at the end, durably (S1)."""
    with pytest.raises(InvariantViolation, match="a client was told that its write at 99 of term 1 succeeded"):
        async with running_cluster(Counter) as cluster:
            cluster.acknowledged.append((99, 1))


@simulated
async def test_end_finds_disks_that_differ() -> None:
    """At the end the disks of all members hold the same log."""
    with pytest.raises(InvariantViolation, match=r"the logs on disk do not end alike: .*'n3': 0"):
        async with running_cluster(Counter) as cluster:
            await cluster.client().propose(1)
            cluster.members["n3"].disk = SimDisk()


@simulated
async def test_no_majority_for_ever() -> None:
    """Faults that leave no majority for good are named as such, with the seed."""
    with pytest.raises(SimulationFailed, match="seed 8: the injected faults leave no majority for ever") as caught:
        async with running_cluster(Counter, seed=8) as cluster:
            await cluster.wait_leader()
            await cluster.restart("n1", "n2", disk="wiped")
    assert "n1: its disk was wiped, n2: its disk was wiped" in str(caught.value)


@simulated
async def test_unknown_member() -> None:
    """A member that does not exist is named, with those that do; and to name none is no way to name all."""
    async with running_cluster(Counter) as cluster:
        with pytest.raises(ValueError, match="seed 0: there is no member n9; this cluster has n1, n2, n3"):
            await cluster.crash("n1", "n9")
        with pytest.raises(ValueError, match="no member is named"):
            await cluster.crash()
        with pytest.raises(ValueError, match="no member is named"):
            cluster.partition(["n1"], [])


def test_settings_are_checked() -> None:
    """Settings that make no sense are refused, with the seed."""
    with pytest.raises(ValueError, match="seed 3: a cluster has at least one member, not 0"):
        ClusterSettings(size=0, seed=3)
    with pytest.raises(ValueError, match="drift must be in"):
        ClusterSettings(drift=1.0)
    with pytest.raises(ValueError, match="time_limit must be a positive number"):
        ClusterSettings(time_limit=float("inf"))


# ------------------------------------------------------------------------------------ speed, repetition


@simulated
async def test_quiet_cluster_is_quick() -> None:
    """Sixty virtual seconds of a quiet cluster, with all invariants on, take less than a second of work."""
    async with running_cluster(Counter) as cluster:
        await cluster.wait_leader()
        began = time.process_time()
        await cluster.clock.sleep(60.0)
        assert time.process_time() - began < 1.0


def test_seed_repeats_a_run() -> None:
    """The same seed gives the same trace, line by line; another one gives another."""
    assert digest(seed=1) == digest(seed=1)
    assert digest(seed=1) != digest(seed=2)


def digest(seed: int) -> str:
    """Of a run with a bit of everything."""
    trace = Trace()

    @simulated
    async def scenario() -> None:
        settings = ClusterSettings(
            drift=0.01,
            link=Latency(0.002, jitter=0.5, tail=0.01, longest=0.3),
            timeouts=Timeouts(commit_timeout=0.02),
        )
        async with running_cluster(Counter, settings, seed=seed, trace=trace) as cluster:
            client = cluster.client()
            for number in range(1, 10):
                await client.propose(number)
            await cluster.crash((await cluster.wait_leader()).node_id)
            for number in range(1, 10):
                await client.propose(number)

    scenario()
    return trace.digest()


def machines(cluster: Any) -> list[Counter]:
    """Of all members that are up."""
    return list(cluster.machines.values())

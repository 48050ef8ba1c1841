"""How long a server waits for a leader, stands by one, and hurries without one."""

import trio
from trio.testing import MockClock

from trio_raft._config import Timeouts
from trio_raft._patience import Patience
from trio_raft.testing._environment import test_environment

TIMEOUTS = Timeouts()
PATIENCE = TIMEOUTS.heartbeat_timeout


def wait(patience: Patience) -> float:
    """Seconds until the timer rings."""
    return patience.election_deadline - trio.current_time()


def make_patience(seed: int = 1) -> Patience:
    return Patience(test_environment(seed), TIMEOUTS)


async def test_heard(autojump_clock: MockClock) -> None:
    """A leader that is heard is stood by for the heartbeat timeout, and waited for somewhat longer (E9)."""
    patience = make_patience()
    assert not patience.is_loyal()
    patience.heard()
    await trio.sleep(PATIENCE - 0.001)
    assert patience.is_loyal()
    assert wait(patience) > 0
    await trio.sleep(0.001)
    assert not patience.is_loyal()


async def test_lost(autojump_clock: MockClock) -> None:
    """A leader that is gone is stood by no longer, and the timer is short, whenever it is set again (E11)."""
    waits: list[float] = []
    for seed in range(20):
        patience = make_patience(seed)
        patience.heard()
        patience.lost("the test says so", took=0.0)
        assert not patience.is_loyal()
        waits.append(wait(patience))
        patience.restart()
        waits.append(wait(patience))
    assert all(0 <= each < TIMEOUTS.failover_delay for each in waits)
    assert len(set(waits)) == len(waits)


async def test_lost_on_a_slow_network(autojump_clock: MockClock) -> None:
    """Where a round trip takes long the pauses differ by more: else all would ask before any was heard (E9, E11)."""
    waits: list[float] = []
    for seed in range(50):
        patience = make_patience(seed)
        patience.heard()
        patience.lost("the test says so", took=0.1)
        waits.append(wait(patience))
    assert 0 <= min(waits) < 0.05
    assert 0.3 < max(waits) < 0.4


async def test_split(autojump_clock: MockClock) -> None:
    """After each split vote the pauses differ by more, but never by more than a follower is patient (E9, E11)."""
    longest: list[float] = []
    patience = make_patience()
    patience.heard()
    patience.lost("the test says so", took=0.0)
    for _ in range(8):
        longest.append(max(patience.draw_pause() for _ in range(500)))
        patience.split()
    spreads = [min(TIMEOUTS.failover_delay * 2**n, PATIENCE) for n in range(8)]
    assert all(0.9 * spread < pause < spread for pause, spread in zip(longest, spreads, strict=True))


async def test_overtaken(autojump_clock: MockClock) -> None:
    """Who is a term ahead has an interval to win; not in haste, as long as any leader has (E9, E11)."""
    for lost in (False, True):
        patience = make_patience()
        patience.heard()
        if lost:
            patience.lost("the test says so", took=0.0)
        patience.overtaken()
        shortest = TIMEOUTS.heartbeat_interval if lost else PATIENCE
        assert shortest <= wait(patience) < 2 * shortest


async def test_lost_and_heard(autojump_clock: MockClock) -> None:
    """Whoever is heard after a leader was lost is stood by and waited for like any leader (E9, E11)."""
    patience = make_patience()
    patience.heard()
    patience.lost("the test says so", took=0.0)
    patience.heard()
    assert patience.is_loyal()
    assert not patience.in_haste()
    assert wait(patience) >= PATIENCE


async def test_haste_ends(autojump_clock: MockClock) -> None:
    """After the heartbeat timeout nobody hurries any more: something else is wrong (E9, E11)."""
    patience = make_patience()
    patience.heard()
    patience.lost("the test says so", took=0.0)
    await trio.sleep(PATIENCE - 0.001)
    assert patience.in_haste()
    await trio.sleep(0.001)
    patience.restart()
    assert wait(patience) >= PATIENCE
    assert not patience.is_loyal()


async def test_supported(autojump_clock: MockClock) -> None:
    """Who got this server's vote has the time to win, in haste too (E9)."""
    patience = make_patience()
    patience.lost("the test says so", took=0.0)
    patience.supported()
    assert wait(patience) >= PATIENCE


async def test_won(autojump_clock: MockClock) -> None:
    """A leader that steps down later is as patient as anybody (E9)."""
    patience = make_patience()
    patience.lost("the test says so", took=0.0)
    patience.won()
    patience.restart()
    assert wait(patience) >= PATIENCE


async def test_won_in_haste(autojump_clock: MockClock) -> None:
    """A leader that steps down soon does not stand by the dead one, whom it succeeded within a moment (E8, E11)."""
    patience = make_patience()
    patience.heard()
    patience.lost("the test says so", took=0.0)
    await trio.sleep(0.05)
    patience.won()
    await trio.sleep(0.1)
    patience.restart()
    assert not patience.is_loyal()
    assert not patience.in_haste()
    patience.heard()
    assert patience.is_loyal()

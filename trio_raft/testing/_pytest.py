"""The pytest plugin: ``raft_cluster`` and ``raft_seed``, on virtual time, in an order that the seed decides.

pytest finds it by itself wherever trio_raft is installed; it needs pytest-trio, which ``trio_raft[test]`` brings.  A
test that uses ``raft_cluster`` needs neither a marker nor a clock::

    async def test_failover(raft_cluster):
        async with raft_cluster(Counter) as cluster:
            ...

``autojump_clock`` or ``mock_clock`` may be asked for as well, to move the time by hand.  The seed is 0 unless
``--raft-seed`` says otherwise; ``@pytest.mark.parametrize("raft_seed", range(50))`` runs a test with each of these.

House rule: a test that fails says with which command it fails again.
"""

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Never, TypeVar

import attrs
import pytest
import trio

from trio_raft.abc import StateMachine
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._determinism import run
from trio_raft.testing._running import StartCluster, running_cluster
from trio_raft.testing._settings import ClusterSettings, refuse_unknown

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--raft-seed``."""
    parser.getgroup("trio_raft").addoption(
        "--raft-seed", default="0", metavar="SEED", help="of the simulated clusters of raft_cluster (default: 0)"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests with a cluster run under this kit's clock and order; pytest-trio has a place for that."""
    if "raft_cluster" in getattr(item, "fixturenames", ()) and item.config.pluginmanager.hasplugin("trio"):
        item.add_marker(pytest.mark.trio(run=_Runner(item)), append=False)


@attrs.frozen
class _Runner:
    """What pytest-trio calls in place of ``trio.run``."""

    item: Any

    def __call__(
        self,
        test: Callable[[], Any],
        *,
        clock: trio.abc.Clock | None,
        instruments: Sequence[trio.abc.Instrument],
    ) -> object:
        return run(test, seed=self.item.funcargs["raft_seed"], clock=clock, instruments=instruments)


@pytest.fixture
def raft_seed(request: pytest.FixtureRequest) -> int | str:
    """The seed of this test's clusters; parametrize it to run the test under several."""
    seed: str = request.config.option.raft_seed
    return int(seed) if seed.isdecimal() else seed


@pytest.fixture
def raft_cluster(request: pytest.FixtureRequest, raft_seed: int | str) -> StartCluster:
    """``async with raft_cluster(Machine) as cluster``: a simulated cluster, judged at the end of the block."""
    if not request.config.pluginmanager.hasplugin("trio"):
        pytest.fail("raft_cluster needs pytest-trio: pip install 'trio_raft[test]'", pytrace=False)
    node_id = request.node.nodeid
    repeat = f"To repeat it: pytest {shlex.quote(node_id)} --raft-seed {shlex.quote(str(raft_seed))}"

    def start(
        machine: Callable[[], StateMachine[CommandT, ResultT]],
        settings: ClusterSettings | None = None,
        *,
        size: int | None = None,
        **unknown: Never,
    ) -> AbstractAsyncContextManager[Cluster[CommandT, ResultT]]:
        if "seed" in unknown:
            raise TypeError("raft_cluster() takes its seed from --raft-seed, or from a parametrized raft_seed")
        refuse_unknown("raft_cluster", unknown)
        settings = attrs.evolve(settings or ClusterSettings(), repeat=repeat)
        return running_cluster(machine, settings, size=size, seed=raft_seed)

    return start

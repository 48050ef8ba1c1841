"""For tests of programs on trio_raft: the nodes that ship, on simulated time, disks and links, from one seed.

Many nodes run in one Trio run, on virtual time that jumps whenever all of them wait: sixty seconds of a quiet cluster
take less than one.  Nothing in them is a model: the rules, the journal, the log files and the wire format are those of
production.  What stands in for the world, a network, a disk and a clock for each node, can do everything that the real
one may do at its worst, and does it again when it is given the same seed.

Write a test (``pip install 'trio_raft[test]'``, nothing to configure)::

    import trio_raft

    class Counter(trio_raft.StateMachine[int, int]):
        total = 0

        def apply(self, entry):
            self.total += entry.command
            return self.total

    async def test_counter(raft_cluster):
        async with raft_cluster(Counter, size=3) as cluster:
            client = cluster.client()
            assert await client.propose(1) == 1
            leader = await cluster.wait_leader()
            await cluster.crash(leader.node_id)
            assert await client.propose(1) == 2
            assert await client.read(lambda counter: counter.total) == 2

``raft_cluster`` is ``running_cluster`` with the seed of the test: 0, or what ``pytest --raft-seed`` or a parametrized
``raft_seed`` says.  Outside of pytest: ``trio_raft.testing.run(main, seed=7)``, and ``running_cluster`` in ``main``.

What may happen inside the block (each method's docstring says more)::

    await cluster.crash("n1")                 no power: whatever was not synced may be lost, torn, or out of order
    await cluster.kill("n1")                  no process: what was written stays
    await cluster.start("n1")                 and back
    await cluster.restart("n1", disk="wiped")
    cluster.pause("n1")                       as SIGSTOP does; resume
    cluster.partition(["n1"], ["n2", "n3"])   also one_way=True; heal
    cluster.network                           slow, narrow, clogged, torn, half-open links: ``MemoryNetwork``
    cluster.disks["n1"]                       errors, a full disk, flipped bits: ``SimDisk``
    cluster.lanes["n1"].stall(3.0)            a disk that hangs
    cluster.clocks["n1"].jump(10.0)           and ``ClusterSettings(drift=0.01)``

With ``ClusterSettings(snapshots=Snapshots(threshold_entries=5, trailing_entries=2, keep=1))`` a machine that defines
``snapshot`` and ``restore`` meets them all the time.  Then what is restored must be what some member had, captures of
one moment must mean the same, and at the end each newest snapshot on a disk must hold what the committed commands lead
to: by the machine's ``__eq__``, if it has one.

What is checked without being asked: Raft's promises after every change of any node (``Invariants``), that no node ends
without an injected reason, and, at the end of the block, that the cluster, once everything is repaired, converges,
serves, comes to rest, and holds on every disk what a client was told.  What you can add:

* ``cluster.invariants.add(check)``: called with all state machines after each command that any of them has applied;
* ``check_linearizable(cluster.history, model)``: whether one order explains what all clients saw.  Calls are recorded
  under ``key=`` and ``action=``; ``Register``, ``KeyValue`` and ``AppendList`` are models, ``Model`` is for yours.
  For a store of your own commands: ``await client.propose(Set("a", 1), key="a", action=Put(1))``, ``await
  client.read(lambda store: store.get("a"), key="a", action=Get())``, and at the end ``verdict =
  check_linearizable(cluster.history, KeyValue())``; ``assert verdict, verdict.explanation``.

What a node went through is in its statistics: ``cluster.nodes["n1"].statistics().snapshots.installed`` counts, in this
life of the node, the snapshots that brought it up.

A failure is a ``SimulationFailed`` with the seed in its text, or your own exception with the seed in a note; both bring
the last lines of what happened and the command that repeats the run.  A run in which something was violated cannot
pass, whatever the block does.

``LogStoreConformance``, ``SnapshotStoreConformance`` and ``TransportConformance`` are test suites for stores and a
transport of your own.

What decides a run is its seed alone: no set is iterated, no address compared, no clock of the machine read.  It repeats
with the same versions of Python, Trio and this package, in any process.

The map, for whoever mends the kit::

    _running, _healing    the block, and its end: repair, converge, serve; _scan, _states: what is on the disks
    _cluster              lives, faults, looking, waiting; with _member, _picture, _settings
    _client, _history     what is asked of it, and what was answered; _models, _linearizability judge it
    _judge                every life is watched: _invariants (see there), _verdict, _trace, _wire
    _network, _streams    links; _disk, _disk_view, _staging: disks; _environment: clocks, lanes; _determinism: the seed
    _pytest, _conformance, _conformance_snapshots, _conformance_transport
"""

from trio_raft.testing._client import Client
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._conformance import LogStoreConformance
from trio_raft.testing._conformance_log import NotConforming
from trio_raft.testing._conformance_snapshots import SnapshotStoreConformance
from trio_raft.testing._conformance_transport import TransportConformance
from trio_raft.testing._determinism import DeterminismUnavailable, Latency, run
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._environment import SimulatedClock, SimulatedLanes
from trio_raft.testing._failures import InvariantViolation, NodeFailed, SimulationFailed, TooSlow, Unanswered
from trio_raft.testing._history import UNKNOWN, Call, History, Operation
from trio_raft.testing._invariants import Invariants
from trio_raft.testing._linearizability import Verdict, check_linearizable
from trio_raft.testing._models import (
    Append,
    AppendList,
    CompareAndSwap,
    Delete,
    Get,
    KeyValue,
    Model,
    Put,
    Read,
    Register,
    Write,
)
from trio_raft.testing._network import MemoryNetwork
from trio_raft.testing._running import StartCluster, running_cluster
from trio_raft.testing._settings import SIMULATION_LIMITS, ClusterSettings
from trio_raft.testing._trace import Trace

__all__ = [
    "SIMULATION_LIMITS",
    "UNKNOWN",
    "Append",
    "AppendList",
    "Call",
    "Client",
    "Cluster",
    "ClusterSettings",
    "CompareAndSwap",
    "Delete",
    "DeterminismUnavailable",
    "Get",
    "History",
    "InvariantViolation",
    "Invariants",
    "KeyValue",
    "Latency",
    "LogStoreConformance",
    "MemoryNetwork",
    "Model",
    "NodeFailed",
    "NotConforming",
    "Operation",
    "Put",
    "Read",
    "Register",
    "SimDisk",
    "SimulatedClock",
    "SimulatedLanes",
    "SimulationFailed",
    "SnapshotStoreConformance",
    "StartCluster",
    "TooSlow",
    "Trace",
    "TransportConformance",
    "Unanswered",
    "Verdict",
    "Write",
    "check_linearizable",
    "run",
    "running_cluster",
]

"""For tests of programs on trio_raft: the same node, with time, disk and network under control."""

from trio_raft.testing._client import Client
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._conformance import LogStoreConformance, NotConforming
from trio_raft.testing._conformance_transport import TransportConformance
from trio_raft.testing._determinism import DeterminismUnavailable, Latency, run
from trio_raft.testing._failures import InvariantViolation, NodeFailed, SimulationFailed, TooSlow, Unanswered
from trio_raft.testing._running import StartCluster, running_cluster
from trio_raft.testing._settings import SIMULATION_LIMITS, ClusterSettings

__all__ = [
    "SIMULATION_LIMITS",
    "Client",
    "Cluster",
    "ClusterSettings",
    "DeterminismUnavailable",
    "InvariantViolation",
    "Latency",
    "LogStoreConformance",
    "NodeFailed",
    "NotConforming",
    "SimulationFailed",
    "StartCluster",
    "TooSlow",
    "TransportConformance",
    "Unanswered",
    "run",
    "running_cluster",
]

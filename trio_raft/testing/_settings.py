"""What a simulated cluster is made of; without any faults unless you bring them."""

from collections.abc import Iterable

import attrs

from trio_raft._config import KIBIBYTE, Limits, Snapshots, Timeouts
from trio_raft.testing._determinism import Latency

SIMULATION_LIMITS = Limits(
    max_command_bytes=16 * KIBIBYTE,
    max_batch_bytes=16 * KIBIBYTE,
    max_frame_body=64 * KIBIBYTE,
    journal_batch_bytes=16 * KIBIBYTE,
    segment_bytes=256 * KIBIBYTE,
)
"""Small files: a simulated disk keeps account of every sector, and each node prepares files ahead."""

SIMULATION_SNAPSHOTS = Snapshots(chunk_bytes=4 * KIBIBYTE)
"""As by default, but for pieces that fit into any frame."""


@attrs.frozen(kw_only=True)
class ClusterSettings:
    """Of one run.  Equal settings, the same seed included, give the same run."""

    size: int = 3
    """Members; they are called n1, n2 …"""

    seed: int | str = 0
    """Decides every draw of the nodes, the disks and the network."""

    timeouts: Timeouts = attrs.field(default=Timeouts())
    limits: Limits = SIMULATION_LIMITS

    snapshots: Snapshots = SIMULATION_SNAPSHOTS
    """For state machines that define ``snapshot`` and ``restore``."""

    link: Latency = attrs.field(default=Latency(0.0005))
    """From one node to another, one way."""

    disk: Latency = attrs.field(default=Latency(0.0002))
    """Of one piece of blocking work: a write with its sync, a read."""

    client: Latency = attrs.field(default=Latency(0.0002))
    """From a client to a node, one way."""

    drift: float = 0.0
    """Each node's clock runs at a rate drawn from [1 - drift, 1 + drift]."""

    time_limit: float = 600.0
    """Virtual seconds that the block may take.  Virtual time never stands still, so a test that waits for something
    that does not come would run for ever."""

    heals: bool = True
    """At the end of the block: repair everything, restart whoever is down, and prove that the cluster works."""

    repeat: str = ""
    """How to repeat this run, for the error's note: a command."""

    def __attrs_post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"seed {self.seed}: a cluster has at least one member, not {self.size}")
        if not 0 <= self.drift < 1:
            raise ValueError(f"seed {self.seed}: drift must be in [0, 1), not {self.drift}")
        if not 0 < self.time_limit < float("inf"):
            raise ValueError(f"seed {self.seed}: time_limit must be a positive number of seconds: {self.time_limit}")

    @property
    def ids(self) -> tuple[str, ...]:
        """The members' ids."""
        return tuple(f"n{number}" for number in range(1, self.size + 1))


def refuse_unknown(call: str, arguments: Iterable[str]) -> None:
    """Raises TypeError if there are any; one that is a setting is told where it belongs."""
    fields = attrs.fields_dict(ClusterSettings)
    for name in arguments:
        if name in fields:
            raise TypeError(
                f"{call}() takes no argument {name!r}; it is a setting: {call}(machine, "
                f"ClusterSettings({name}=...)), with trio_raft.testing.ClusterSettings"
            )
        raise TypeError(
            f"{call}() takes no argument {name!r}; what a cluster is made of is in ClusterSettings: {', '.join(fields)}"
        )

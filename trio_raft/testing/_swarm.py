"""What a seed draws: the cluster, its clients, and what will go wrong.

One set of settings, however well chosen, tests one corner.  So every run draws its own: its size, timeouts, bounds
(down to 1), how slow links and disks are, what the clients do; and which kinds of faults it knows at all.  A run
without crashes lets partitions go on for longer than any run with everything would; a run without any fault shows what
faults would hide.  (Groce et al., "Swarm testing", 2012.)

House rule: a plan is data.  Nothing is drawn later that could have been drawn here, except by the parts themselves,
each from its own generator.
"""

from typing import Final

import attrs

from trio_raft._config import Limits, Snapshots, Timeouts
from trio_raft.testing._determinism import Latency, Random, divide
from trio_raft.testing._settings import ClusterSettings
from trio_raft.testing._workload import Workload

SECONDS: Final = 20.0
"""Virtual seconds of trouble in each run; healing comes after that."""

FAULTS: Final = (
    "crash",
    "crash many",
    "kill",
    "pause",
    "isolate",
    "isolate leader",
    "halves",
    "bridge",
    "ring",
    "one way",
    "half open",
    "reset",
    "torn frame",
    "clog",
    "slow link",
    "narrow link",
    "clock jump",
    "disk error",
    "directory error",
    "disk full",
    "short write",
    "short stall",
    "long stall",
    "slow disk",
    "old copy",
    "bit flip",
    "wiped disk",
    "left behind",
    "snapshot crash",
    "slow snapshots",
    "snapshot error",
    "transfer cut",
    "snapshot flip",
    "lost connections",
)
"""Every kind of fault, by the names that the command line knows."""

UNQUOTED: Final = "old-copy"
"""A fault's name as a command line takes it without quotes."""
LATER: Final = ("lost connections",)
"""Kinds that came when seeds had their plans; drawn apart, so that these stay what they were."""

OFTEN: Final = {
    "crash": 5,
    "crash many": 3,
    "kill": 3,
    "lost connections": 3,
    "pause": 3,
    "isolate leader": 5,
    "disk error": 2,
    "one way": 2,
    "left behind": 3,
    "snapshot crash": 4,
    "slow snapshots": 2,
    "transfer cut": 3,
}
"""Faults from which more can follow, and how much more often than the others they are chosen."""

RUINS: Final = ("bit flip", "wiped disk", "snapshot flip")
"""Faults after which the member rightly refuses to take part, for the rest of the run."""

NO_SNAPSHOTS: Final = Snapshots(threshold_entries=0, threshold_bytes=0, interval=0.0, chunk_bytes=64)

SNAPSHOTS_SHARE = 0.67
"""Of the seeds; in the others the log only grows."""

HEALING_SECONDS: Final = 1000.0
"""Virtual seconds that healing may take, all waits together; each is bounded by itself."""

LEAST_FRAME_BYTES = 8 << 10
"""A frame body has to hold a command and a member map."""


@attrs.frozen(kw_only=True)
class Plan:
    """One run, as its seed decides it."""

    seed: int
    seconds: float
    """Virtual, of trouble."""
    settings: ClusterSettings
    workload: Workload
    faults: tuple[str, ...]
    """The kinds of faults that this run knows."""
    fault_pause: float
    """Seconds between two faults, on average."""
    most_faults: int
    """So many faults may be on at the same time."""
    ruined: int
    """Members that may lose their disk for good, or have it damaged."""

    def __attrs_post_init__(self) -> None:
        unknown = [fault for fault in self.faults if fault not in FAULTS]
        if unknown:
            raise ValueError(
                f"seed {self.seed}: unknown faults {', '.join(unknown)}. Known: {', '.join(FAULTS)}. On a command "
                f"line, quote names with spaces, or write them with hyphens: {UNQUOTED}"
            )
        size = self.settings.size
        if self.ruined < 0:
            raise ValueError(f"seed {self.seed}: the ruined disks are a number of members, not {self.ruined}")
        if 2 * (size - self.ruined) <= size and any(fault in RUINS for fault in self.faults):
            raise ValueError(
                f"seed {self.seed}: with the disks of {self.ruined} of {size} members ruined ({', '.join(RUINS)}), no "
                f"majority is left for ever, and nothing can be proved. At most {(size - 1) // 2} may be"
            )

    def __str__(self) -> str:
        timeouts, limits = _differences(self.settings.timeouts), _differences(self.settings.limits)
        rhythm = f"every {self.fault_pause:.2g} s, at most {self.most_faults} at a time, {self.ruined} disks ruined"
        return "\n".join(
            [
                f"seed {self.seed}: {self.settings.size} members, {self.seconds:g} virtual seconds, then healing",
                f"  timeouts: {timeouts or 'default'}",
                f"  limits:   {limits}",
                f"  snapshots: {'none' if self.settings.snapshots == NO_SNAPSHOTS else self.settings.snapshots}",
                f"  links:    {self.settings.link}",
                f"  disks:    {self.settings.disk}, clocks drift by {self.settings.drift:.3g}",
                f"  clients:  {self.workload}",
                f"  faults:   {', '.join(self.faults) or 'none'}; {rhythm}",
            ]
        )


PROFILES: Final = {
    "swarm": "everything is drawn from the seed",
    "standard": "three members, default timeouts, 20 writes a second, every kind of fault: to measure the speed",
    "idle": "three members, default timeouts, no clients, no faults: to measure the speed",
}


@attrs.frozen(kw_only=True)
class Wishes:
    """What the person who runs the swarm decides, in place of the seed."""

    seconds: float = SECONDS
    profile: str = "swarm"
    """One of ``PROFILES``."""
    size: int | None = None
    faults: tuple[str, ...] | None = None
    """Only these kinds, all of them in each run; empty: none."""
    ruined: int | None = None
    snapshots: bool | None = None
    """Are any taken?"""

    @property
    def arguments(self) -> list[str]:
        """The same on the command line."""
        words: list[str] = []
        if self.seconds != SECONDS:
            words += ["--seconds", f"{self.seconds:g}"]
        if self.profile != "swarm":
            words += ["--profile", self.profile]
        if self.size is not None:
            words += ["--size", str(self.size)]
        if self.faults is not None:
            words += ["--faults", ",".join(self.faults) or "none"]
        if self.ruined is not None:
            words += ["--ruined", str(self.ruined)]
        if self.snapshots is not None:
            words += ["--snapshots", "on" if self.snapshots else "off"]
        return words


def draw_plan(seed: int, wishes: Wishes = Wishes()) -> Plan:
    """The run of this seed.  ValueError: the wishes leave no majority, or make no sense otherwise."""
    if not 0 < wishes.seconds < float("inf"):
        raise ValueError(f"seed {seed}: a run takes a positive number of virtual seconds, not {wishes.seconds}")
    if wishes.profile not in PROFILES:
        raise ValueError(f"seed {seed}: there is no profile {wishes.profile!r}. Known: {', '.join(PROFILES)}")
    plan = _draw_freely(seed) if wishes.profile == "swarm" else _plan_for_measuring(seed, idle=wishes.profile == "idle")
    size = plan.settings.size if wishes.size is None else wishes.size
    snapshots = plan.settings.snapshots
    if wishes.snapshots is not None:
        snapshots = _draw_snapshots(seed) if wishes.snapshots else NO_SNAPSHOTS
    ruined = min(plan.ruined, (max(size, 1) - 1) // 2) if wishes.ruined is None else wishes.ruined
    return attrs.evolve(
        plan,
        seconds=wishes.seconds,
        settings=attrs.evolve(
            plan.settings, size=size, snapshots=snapshots, time_limit=wishes.seconds + HEALING_SECONDS
        ),
        faults=plan.faults if wishes.faults is None else wishes.faults,
        ruined=ruined,
    )


def _draw_freely(seed: int) -> Plan:
    random, later = divide(seed, "plan"), divide(seed, "later faults")
    size = random.choices((1, 3, 4, 5, 7), weights=(1, 10, 2, 4, 1))[0]
    calm = random.random() < 0.05
    faults = () if calm else tuple(fault for fault in FAULTS if (later if fault in LATER else random).random() < 0.5)
    ruined = random.randrange((size - 1) // 2 + 1)
    timeouts = _draw_timeouts(random)
    settings = ClusterSettings(
        size=size,
        seed=seed,
        timeouts=timeouts,
        limits=_draw_limits(random),
        snapshots=_draw_snapshots(seed) if random.random() < SNAPSHOTS_SHARE else NO_SNAPSHOTS,
        # Whoever sets shorter timeouts has quicker links and disks.
        link=_draw_link(random, unit=timeouts.heartbeat_timeout),
        disk=_draw_disk(random, unit=timeouts.heartbeat_timeout),
        drift=random.choice((0.0, 0.0, 0.001, 0.02)),
        heals=False,
    )
    return Plan(
        seed=seed,
        seconds=SECONDS,
        settings=settings,
        workload=_draw_workload(random, settings.limits),
        faults=faults,
        fault_pause=random.choice((0.3, 0.7, 1.5, 3.0)),
        most_faults=random.choice((1, 2, 4)),
        ruined=ruined,
    )


def _plan_for_measuring(seed: int, *, idle: bool) -> Plan:
    return Plan(
        seed=seed,
        seconds=SECONDS,
        settings=ClusterSettings(
            size=3,
            seed=seed,
            snapshots=Snapshots(threshold_entries=50, trailing_entries=20, chunk_bytes=1024),
            link=Latency(0.0005, jitter=0.5, tail=0.01, longest=0.1),
            disk=Latency(0.001, jitter=0.5, tail=0.01, longest=0.1),
            heals=False,
        ),
        workload=Workload(clients=0 if idle else 5, pause=0.25, read_share=0.0),
        faults=() if idle else FAULTS,
        fault_pause=1.5,
        most_faults=2,
        ruined=1,
    )


def _draw_timeouts(random: Random) -> Timeouts:
    """The defaults in every third run; otherwise faster or slower throughout, with some drawn by themselves."""
    if random.random() < 0.33:
        return Timeouts()
    factor = random.choice((0.3, 0.5, 1.0))
    values = {name: value * factor for name, value in attrs.asdict(Timeouts()).items()}
    values["dial_timeout"] = random.choice((0.3, 1.0, 3.0)) * factor
    values["frame_timeout"] = random.choice((0.5, 5.0)) * factor
    values["commit_timeout"] = random.choice((0.002, 0.05, 0.5)) * factor
    values["disk_stall_timeout"] = random.choice((0.3, 1.0, 2.0)) * factor
    values["request_timeout"] = max(random.choice((0.5, 2.0, 5.0)) * factor, values["disk_stall_timeout"])
    values["replication_stall_timeout"] = max(random.choice((2.0, 10.0)) * factor, values["request_timeout"])
    values["election_timeout"] = values["heartbeat_timeout"] * random.choice((1.0, 1.0, 2.0))
    values["leader_lease_timeout"] = values["heartbeat_timeout"] * random.choice((0.4, 0.5, 1.0))
    values["retry_backoff_cap"] = random.choice((0.05, 1.0)) * factor
    return Timeouts(**values)


def _draw_limits(random: Random) -> Limits:
    """Each bound is wide, narrow, or 1; the files are as small as the other bounds allow, or a few times that."""
    frame = random.choice((1, 1, 4)) * LEAST_FRAME_BYTES
    batch = random.choice((1, 512, frame // 2))
    journal = random.choice((1, 2048, 16 << 10))
    least_segment = journal + frame + (1 << 10) + (64 << 10)
    return Limits(
        max_command_bytes=random.choice((1024, 2048, frame // 2)),
        max_batch_entries=random.choice((1, 2, 64)),
        max_batch_bytes=batch,
        max_frame_body=frame,
        pipeline_requests=random.choice((1, 2, 4)),
        pipeline_bytes=random.choice((1, 1024, 1 << 20)),
        journal_batch_bytes=journal,
        pending_bytes=random.choice((1, 1024, 1 << 20)),
        log_memory_bytes=random.choice((1, 1024, 1 << 20)),
        segment_bytes=random.choice((least_segment, least_segment, 4 * least_segment)),
        apply_batch_entries=random.choice((1, 2, 256)),
        event_buffer=random.choice((1, 256)),
    )


def _draw_snapshots(seed: int) -> Snapshots:
    """Thresholds so small that there are many, and short logs behind them: then whoever was away needs one."""
    random = divide(seed, "snapshots")
    entries, size = random.choice((0, 3, 10, 30, 200)), random.choice((0, 0, 1 << 10, 8 << 10))
    interval = random.choice((0.0, 0.0, 0.3, 2.0))
    return Snapshots(
        threshold_entries=entries if entries or size or interval else 10,
        threshold_bytes=size,
        interval=interval,
        trailing_entries=random.choice((0, 0, 1, 5, 20, 100)),
        keep=random.choice((1, 1, 2, 3)),
        chunk_bytes=random.choice((64, 256, 1024, 4096)),
        bytes_per_second=random.choice((0, 0, 500, 5000)),
    )


def _draw_link(random: Random, *, unit: float) -> Latency:
    typical = random.choice((0.0002, 0.0005, 0.005, 0.03)) * unit
    return Latency(
        typical,
        jitter=random.choice((0.0, 0.5, 0.9)),
        tail=random.choice((0.0, 0.01, 0.05)),
        longest=random.choice((0.1, 0.5, 2.0)),
    )


def _draw_disk(random: Random, *, unit: float) -> Latency:
    typical = random.choice((0.0001, 0.001, 0.005, 0.02)) * unit
    return Latency(
        typical,
        jitter=random.choice((0.0, 0.9)),
        tail=random.choice((0.0, 0.01, 0.05)),
        longest=random.choice((0.1, 0.5)),
    )


def _draw_workload(random: Random, limits: Limits) -> Workload:
    clients = random.choice((1, 8, 8, 16))
    return Workload(
        shape=random.choice(("lists", "values")),
        clients=clients,
        # About so many calls a second, all clients together.
        pause=clients / random.choice((10.0, 20.0, 20.0, 60.0)),
        keys=random.choice((1, 3, 10)),
        read_share=random.choice((0.1, 0.2, 0.5)),
        # The encoded command also names its class, key and value.
        padding=max(0, random.choice((0, 1, 1, 1, 1)) * limits.max_command_bytes - 128),
        local=random.random() < 0.7,
        patience=random.choice((1.0, 5.0, 15.0)),
    )


def _differences(settings: Timeouts | Limits) -> str:
    """What is not as by default."""
    default = type(settings)()
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in attrs.asdict(settings).items()
        if value != getattr(default, name)
    )

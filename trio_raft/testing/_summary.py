"""What a run of many seeds says to a person, while it goes on and at its end."""

import attrs

from trio_raft.testing._chances import Chances
from trio_raft.testing._run import Done
from trio_raft.testing._seed import SeedReport
from trio_raft.testing._swarm import Wishes

BAR_WIDTH = 30

FAULT = "fault: "


@attrs.define(kw_only=True)
class Summary:
    """Of all seeds so far."""

    wishes: Wishes
    wanted: int | None
    """How many seeds there are; None: as many as the time allows."""
    processes: int
    seeds: int = 0
    virtual_seconds: float = 0.0
    busy_seconds: float = 0.0
    """Real seconds that the processes spent, all together."""
    cpu_seconds: float = 0.0
    """Seconds that they worked; fewer, if others used the machine too."""
    counts: dict[str, int] = attrs.field(factory=dict[str, int])
    trace_hashes: dict[int, str] = attrs.field(factory=dict[int, str])
    """By seed."""
    failed: list[SeedReport] = attrs.field(factory=list[SeedReport])
    interrupted: bool = False
    warnings: list[str] = attrs.field(factory=list[str])
    """About the options."""
    chances: Chances = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.chances = Chances(self.wishes)

    def note(self, done: Done) -> None:
        """One more seed was run."""
        report = done.report
        self.seeds += 1
        self.virtual_seconds += report.virtual_seconds
        self.busy_seconds += done.real_seconds
        self.cpu_seconds += done.cpu_seconds
        self.chances.note(report.seed)
        self.trace_hashes[report.seed] = report.trace_hash
        for what, times in report.counts.items():
            self.counts[what] = self.counts.get(what, 0) + times
        if not report.ok:
            self.failed.append(report)

    @property
    def passed(self) -> bool:
        """Every seed that was run passed, at least one was, and nobody interrupted it."""
        return bool(self.seeds) and not self.failed and not self.interrupted

    @property
    def speed(self) -> float:
        """Virtual seconds in each real second, on one core."""
        return self.virtual_seconds / self.busy_seconds if self.busy_seconds else 0.0

    @property
    def cpu_speed(self) -> float:
        """Virtual seconds in each second of work: what ``speed`` would be, had nobody else used the machine."""
        return self.virtual_seconds / self.cpu_seconds if self.cpu_seconds else 0.0

    def progress(self, real_seconds: float) -> str:
        """One line: how far it is."""
        done = "" if self.wanted is None else _bar(self.seeds / self.wanted if self.wanted else 1.0) + " "
        of = "" if self.wanted is None else f"/{self.wanted}"
        rate = self.seeds / real_seconds if real_seconds else 0.0
        time = f"{self.virtual_seconds:.0f} virtual in {real_seconds:.0f} real seconds"
        return f"{done}{self.seeds}{of} seeds, {rate:.1f}/s, {time}, {len(self.failed)} failed"

    def text(self, real_seconds: float) -> str:
        """The whole result."""
        rate = self.seeds / real_seconds if real_seconds else 0.0
        lines = [
            (
                f"{self.seeds} seeds, {self.virtual_seconds:.0f} virtual seconds in {real_seconds:.1f} real seconds: "
                f"{rate:.2f} seeds a second; {self.speed:.1f} virtual seconds in a real second on each of "
                f"{self.processes} cores, {self.cpu_speed:.1f} in a second of its work"
            ),
            "faults injected:",
            *_columns(self.struck()),
            "what came of them:",
            *_columns({what: n for what, n in self.counts.items() if not what.startswith(FAULT)}),
        ]
        lines += self.chances.lines(self.struck())
        for report in self.failed:
            lines += ["", failure_text(report, self.wishes)]
        state = "passed" if self.passed else "INTERRUPTED" if self.interrupted else "FAILED"
        lines.append(f"\n{state}: {len(self.failed)} of {self.seeds} seeds failed")
        return "\n".join(lines)

    def struck(self) -> dict[str, int]:
        """Kind of fault → how often it struck."""
        return {what.removeprefix(FAULT): times for what, times in self.counts.items() if what.startswith(FAULT)}

    def plain(self, real_seconds: float) -> dict[str, object]:
        """The same for machines."""
        return {
            "seeds": self.seeds,
            "virtual_seconds": self.virtual_seconds,
            "real_seconds": real_seconds,
            "processes": self.processes,
            "virtual_seconds_per_core_second": self.speed,
            "virtual_seconds_per_cpu_second": self.cpu_speed,
            "passed": self.passed,
            "interrupted": self.interrupted,
            "counts": dict(sorted(self.counts.items())),
            "faults_that_never_struck": self.chances.absent(self.struck()),
            "faults_that_should_have_struck": self.chances.missed(self.struck()),
            "warnings": self.warnings,
            "trace_hashes": {str(seed): digest for seed, digest in sorted(self.trace_hashes.items())},
            "failed": [
                {**attrs.asdict(each), "repeat": repeat_command(each.seed, self.wishes)} for each in self.failed
            ],
        }


def failure_text(report: SeedReport, wishes: Wishes, mutant: str | None = None) -> str:
    """A failed seed, and how to see it again."""
    return f"FAILED {report.violation}\nrepeat with: {repeat_command(report.seed, wishes, mutant)}"


def repeat_command(seed: int, wishes: Wishes, mutant: str | None = None) -> str:
    """The command line that runs the seed once more, and shows every line of its trace."""
    words = ["python -m trio_raft.testing replay", str(seed), *wishes.arguments]
    if mutant is not None:
        words += ["--mutant", mutant]
    return " ".join(f'"{word}"' if " " in word and word is not words[0] else word for word in words)


def _bar(share: float) -> str:
    full = round(min(share, 1.0) * BAR_WIDTH)
    return f"[{'#' * full}{'.' * (BAR_WIDTH - full)}]"


def _columns(counts: dict[str, int]) -> list[str]:
    width = max((len(what) for what in counts), default=0)
    return [f"  {what:<{width}} {times:>9}" for what, times in sorted(counts.items())] or ["  none"]

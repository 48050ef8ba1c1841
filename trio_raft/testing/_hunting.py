"""Which seed catches which mutant: ``python -m trio_raft.testing mutants``.

Seeds are run against each mutant, in order, until one fails.  A failure alone proves nothing: the kit may be at fault,
or the code as it ships.  So whoever fails is run again without the mutant.  A mutant is *caught* by a seed only if that
control passes, and if the failure is a judgement of the cluster, not an error of the kit, by a check of the rule that
the mutant breaks, or by one that its entry names.  Otherwise the hunt goes on; what another check noticed is shown as
*caught otherwise*, and a control that failed is reported, since it is a finding of its own.

House rule: a control is the same run in everything but the mutant.
"""

from collections.abc import Callable, Iterator, Sequence

import attrs

from trio_raft.testing._mutants import MUTANTS
from trio_raft.testing._run import Done, Job
from trio_raft.testing._seed import SeedReport
from trio_raft.testing._summary import failure_text
from trio_raft.testing._swarm import Wishes


@attrs.define
class Hunt:
    """One mutant, and how it fares."""

    name: str
    seeds: int = 0
    over: bool = False
    """Caught, or out of seeds."""
    caught: str = ""
    """The violation that gave it away."""
    check: str = ""
    """The check that found it."""
    caught_by: int | None = None
    unproved: list[str] = attrs.field(factory=list[str])
    """Failures that do not count."""
    otherwise: list[str] = attrs.field(factory=list[str])
    """Checks of other rules that failed; they do not count either."""

    def line(self) -> str:
        """Of the table."""
        mutant = MUTANTS[self.name]
        result = f"seed {self.caught_by}" if self.caught_by is not None else "SURVIVED" if self.over else "open"
        how = self.check
        if not how and self.otherwise:
            how = f"caught otherwise: {'; '.join(dict.fromkeys(self.otherwise))}"
        elif not how and self.unproved:
            how = f"not counted: {self.unproved[-1]}"
        how = how.partition("\n")[0][:100]
        return f"{self.name:<44} {mutant.rule:<8} {self.seeds:>5}  {result:<10} {how}"


class Hunts:
    """All of them, side by side; what they share are the controls."""

    def __init__(
        self, names: Sequence[str], seeds: range, wishes: Wishes, *, on_caught: Callable[[Hunt], None]
    ) -> None:
        self.hunts = {name: Hunt(name) for name in names}
        self.controls: dict[int, SeedReport] = {}
        """Of runs without a mutant, by seed."""
        self._seeds = seeds
        self._wishes = wishes
        self._on_caught = on_caught
        self._last: dict[str, SeedReport] = {}
        """Of each mutant, its latest run."""

    def chains(self) -> Iterator[Iterator[Job]]:
        """The jobs of each hunt; the next one depends on what ``note`` was told of the one before."""
        return (self._jobs(hunt) for hunt in self.hunts.values())

    def note(self, job: Job, done: Done) -> bool:
        """A job has ended."""
        if job.mutant is None:
            # Two hunts may ask for the same one at once: what has failed once is not forgotten.
            if job.seed not in self.controls or self.controls[job.seed].ok:
                self.controls[job.seed] = done.report
        else:
            self._last[job.mutant] = done.report
        return True

    def _jobs(self, hunt: Hunt) -> Iterator[Job]:
        for seed in self._seeds:
            yield Job(seed=seed, wishes=self._wishes, mutant=hunt.name)
            hunt.seeds += 1
            report = self._last[hunt.name]
            if report.ok:
                continue
            if seed not in self.controls:
                # A hang or an error of the kit, too, may be there without the mutant.
                yield Job(seed=seed, wishes=self._wishes)
            if not report.judged:
                hunt.unproved.append(f"no judgement: {report.violation}")
            elif not self.controls[seed].ok:
                hunt.unproved.append(f"without the mutant too: {report.violation}")
            elif not MUTANTS[hunt.name].is_caught_by(report.check):
                hunt.otherwise.append(f"{report.check} (seed {seed})")
            else:
                hunt.caught_by, hunt.caught, hunt.check = seed, report.violation, report.check
                break
        hunt.over = True
        if hunt.caught_by is not None:
            self._on_caught(hunt)

    @property
    def survivors(self) -> list[Hunt]:
        """Mutants that no seed has caught, so far or for good."""
        return [hunt for hunt in self.hunts.values() if hunt.caught_by is None]

    @property
    def failed_controls(self) -> list[SeedReport]:
        """Runs of the code as it ships that did not pass."""
        return [report for _, report in sorted(self.controls.items()) if not report.ok]

    @property
    def proved(self) -> bool:
        """Every mutant is caught, and no control has failed."""
        return not self.survivors and not self.failed_controls

    def progress(self) -> str:
        """One line: how far it is."""
        caught, seeds = len(self.hunts) - len(self.survivors), sum(hunt.seeds for hunt in self.hunts.values())
        return f"{caught} of {len(self.hunts)} mutants caught, {seeds} seeds run, {len(self.controls)} without a mutant"

    def end_of_table(self, *, interrupted: bool) -> str:
        """What is left to say once every mutant that was caught has its line."""
        lines = [hunt.line() for hunt in self.survivors]
        lines += [f"WITHOUT ANY MUTANT: {failure_text(report, self._wishes)}" for report in self.failed_controls]
        state = "INTERRUPTED: " if interrupted else ""
        caught, most = len(self.hunts) - len(self.survivors), max(hunt.seeds for hunt in self.hunts.values())
        lines.append(f"{state}{caught} of {len(self.hunts)} mutants caught, within {most} seeds")
        return "\n".join(lines)

    def plain(self, *, interrupted: bool) -> dict[str, object]:
        """The same for machines."""
        return {
            "proved": self.proved and not interrupted,
            "interrupted": interrupted,
            "mutants": [{**attrs.asdict(hunt), "rule": MUTANTS[hunt.name].rule} for hunt in self.hunts.values()],
            "failed_controls": [attrs.asdict(report) for report in self.failed_controls],
        }

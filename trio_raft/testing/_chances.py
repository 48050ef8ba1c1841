"""Which faults can do anything under the options that were given, and how surprising it is if one never did.

A short run misses most kinds of faults, and that is no news.  It is news if a fault that was drawn often never found
anything to strike at: then the kit, or the package, has changed under it.

House rule: estimates only; nothing here decides a run.
"""

from collections.abc import Mapping

import attrs

from trio_raft.testing._link_faults import LINK_FAULTS
from trio_raft.testing._swarm import FAULTS, NO_SNAPSHOTS, OFTEN, RUINS, Plan, Wishes, draw_plan

NEED_SNAPSHOTS = ("snapshot crash", "slow snapshots", "snapshot error", "transfer cut", "snapshot flip")
"""Without any snapshot they find nothing to harm."""

LEAST_SIZE: Mapping[str, int] = {
    **dict.fromkeys(LINK_FAULTS, 2),
    "bridge": 3,
    "ring": 4,
    "crash many": 2,
    "old copy": 2,
    "transfer cut": 2,
    **dict.fromkeys(RUINS, 3),
}
"""Members that a cluster must have for this fault to find its place."""

MANY = 5
"""Members that are enough for every fault."""

TYPICAL_SECONDS = 2.5
"""For which a fault lasts, on average."""

SURPRISING_TRIES = 20.0
"""After so many tries that were to be expected, a fault that never struck is worth a look."""


def obstacle(fault: str, plan: Plan) -> str:
    """Why this fault cannot do anything in this run; empty if it can."""
    size = plan.settings.size
    if size < LEAST_SIZE.get(fault, 1):
        return f"the cluster has {size} {'member' if size == 1 else 'members'}, and it takes {LEAST_SIZE[fault]}"
    if fault in RUINS and plan.ruined < 1:
        return "no disk may be ruined"
    if fault in NEED_SNAPSHOTS and plan.settings.snapshots == NO_SNAPSHOTS:
        return "no snapshots are taken"
    return ""


def warnings(wishes: Wishes, seed: int) -> list[str]:
    """Options that contradict each other: whatever is drawn, a fault that was asked for cannot do anything.

    ``seed``: any one of the run; what it draws in place of an option that was not given is not held against it.
    """
    found: list[str] = []
    if wishes.ruined and wishes.faults is not None and not any(fault in RUINS for fault in wishes.faults):
        found.append(
            f"--ruined {wishes.ruined} changes nothing, since none of the --faults ruins a disk: {', '.join(RUINS)}"
        )
    size = MANY if wishes.size is None else wishes.size
    plan = draw_plan(seed, attrs.evolve(wishes, size=size, snapshots=wishes.snapshots is not False, faults=()))
    if wishes.ruined is None:
        plan = attrs.evolve(plan, ruined=(size - 1) // 2)
    reasons: dict[str, list[str]] = {}
    for fault in wishes.faults or ():
        reason = obstacle(fault, plan)
        if reason:
            reasons.setdefault(reason, []).append(fault)
    found += [f"of the --faults {', '.join(faults)} can do nothing: {reason}" for reason, faults in reasons.items()]
    return found


@attrs.define
class Chances:
    """Of the seeds so far: which faults were drawn, and how often each should have been tried."""

    _wishes: Wishes
    seeds: int = 0
    drawn: dict[str, int] = attrs.field(factory=dict[str, int])
    """In so many seeds."""
    tries: dict[str, float] = attrs.field(factory=dict[str, float])
    """About so many, where the fault could do anything."""

    def note(self, seed: int) -> None:
        """One more seed was run."""
        self.seeds += 1
        try:
            plan = draw_plan(seed, self._wishes)
        except ValueError:
            # It was refused, and struck by nothing.
            return
        weights = {fault: OFTEN.get(fault, 1) for fault in plan.faults}
        rate = min(1 / plan.fault_pause, plan.most_faults / TYPICAL_SECONDS)
        for fault, weight in weights.items():
            self.drawn[fault] = self.drawn.get(fault, 0) + 1
            if not obstacle(fault, plan):
                tries = plan.seconds * rate * weight / sum(weights.values())
                self.tries[fault] = self.tries.get(fault, 0.0) + (min(tries, plan.ruined) if fault in RUINS else tries)

    def lines(self, struck: Mapping[str, int]) -> list[str]:
        """For a person, about the faults that never struck."""
        absent = self.absent(struck)
        undrawn = [fault for fault in absent if fault not in self.drawn]
        hopeless = [fault for fault in absent if fault in self.drawn and fault not in self.tries]
        missed = self.missed(struck)
        patient = [fault for fault in absent if fault in self.tries and fault not in missed]
        return [
            f"{what}: {', '.join(faults)}"
            for what, faults in (
                (f"faults not drawn in {self.seeds} {'seed' if self.seeds == 1 else 'seeds'}", undrawn),
                ("drawn, but with nothing that they could do in these runs", hopeless),
                ("drawn, but they have not struck yet, which is no surprise in so short a run", patient),
                ("FAULTS THAT NEVER STRUCK, though they were tried often enough", missed),
            )
            if faults
        ]

    def absent(self, struck: Mapping[str, int]) -> list[str]:
        """Kinds of faults that the options allow, and that no seed has met."""
        wishes = self._wishes
        possible = FAULTS if wishes.faults is None and wishes.profile != "idle" else wishes.faults or ()
        return [fault for fault in possible if not struck.get(fault)]

    def missed(self, struck: Mapping[str, int]) -> list[str]:
        """Those of them that should have struck by now."""
        return [fault for fault in self.absent(struck) if self.tries.get(fault, 0.0) >= SURPRISING_TRIES]

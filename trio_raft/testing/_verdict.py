"""What was found broken, worded for a person at night, and the guarantee that it fails the run.

An exception would be the wrong way out of a check: checks hang on calls inside the nodes, and a node has many places
where an error ends one connection, or one task, and is tried again.  So the first violation is *recorded*, whoever
runs the simulation is told at once, to cancel it, and the error is raised where nothing swallows it.

House rule: a check that itself fails is a violation too.
"""

from collections.abc import Callable

import attrs

from trio_raft._errors import error_text
from trio_raft.testing._failures import InvariantViolation
from trio_raft.testing._trace import Trace


@attrs.frozen
class Violation:
    """One broken promise."""

    rule: str
    """Its name and ids: ``Election Safety (E1, E2)``."""
    time: float
    """Virtual seconds."""
    node_id: str
    """Where it was seen; empty if it is no single server's."""
    expected: str
    seen: str
    judged: bool = True
    """False: the check itself failed."""

    def __str__(self) -> str:
        where = f" on {self.node_id}" if self.node_id else ""
        return (
            f"{self.rule} is violated at {self.time:.6f} s{where}\n  expected: {self.expected}\n  seen:     {self.seen}"
        )


class Verdict:
    """Of one run: nothing yet, or the first violation."""

    def __init__(self, seed: int | str, trace: Trace, *, now: Callable[[], float]) -> None:
        self._seed = seed
        self._trace = trace
        self._now = now
        self.violation: Violation | None = None
        """The first one; what comes after it may only follow from it, and is not looked at."""
        self.on_violation: Callable[[], None] = _nothing
        """Called in the moment in which it is found: to cancel the run."""

    def fail(self, rule: str, node_id: str, *, expected: str, seen: str, judged: bool = True) -> None:
        """Something does not hold.  Returns; only the first call counts."""
        if self.violation is None:
            self.violation = Violation(rule, self._now(), node_id, expected, seen, judged)
            self._trace.note(node_id or "kit", f"VIOLATION {self.violation}")
            self.on_violation()

    def guard(self, node_id: str, check: Callable[[], None]) -> None:
        """Run a check, unless the verdict is known already; whatever it raises is a violation."""
        if self.violation is None:
            try:
                check()
            except Exception as error:
                self.fail(
                    "The check of the invariants",
                    node_id,
                    expected="every check comes to a result",
                    seen=f"{error_text(error)}, at {_place(error)}",
                    judged=False,
                )

    def raise_if_violated(self) -> None:
        """Raises InvariantViolation, with the seed, if there was one."""
        if self.violation is not None:
            failure = InvariantViolation(self._seed, str(self.violation), check=self.violation.rule)
            failure.judged = self.violation.judged
            raise failure


def _place(error: BaseException) -> str:
    """File and line of where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _nothing() -> None:
    """Until somebody runs a simulation."""

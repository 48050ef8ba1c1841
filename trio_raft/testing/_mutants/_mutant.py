"""What a mutant is, and how it is made: one attribute of the package, replaced for the time of a block.

A mutant that fails a run has shown something only if it was noticed as what it is.  So the check that failed has to be
one of the broken rule, or one that the mutant's entry names, with the reason why it is the right one to notice this.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs

from trio_raft.testing._failures import NO_NODE_FAILS


@attrs.frozen
class Mutant:
    """One deliberate fault."""

    name: str
    rule: str
    """The id of the rule that it breaks."""
    story: str
    """The mistake, in a sentence."""
    applied: Callable[[], AbstractContextManager[None]]
    """Patches the package for as long as the block lasts."""
    also: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """What else notices it: the id of a rule, or the beginning of a check's name → why it does."""

    def is_caught_by(self, check: str) -> bool:
        """Is this the check of a rule that the mutant breaks?"""
        rules = rules_of(check)
        return self.rule in rules or any(key in rules or check.startswith(key) for key in self.also)


def fails_by(what: str) -> str:
    """The check that no node ends by itself, here by this error."""
    return f"{NO_NODE_FAILS}: {what}"


def rules_of(check: str) -> list[str]:
    """The ids of the rules in a check's name."""
    return re.findall(r"\b[A-Z]\d+\b", check)


Patch = Callable[[Any], Any]
"""Makes the faulty function from the sound one."""


def mutant(
    name: str,
    rule: str,
    story: str,
    target: object,
    attribute: str,
    patch: Patch,
    *,
    also: Mapping[str, str] | None = None,
) -> Mutant:
    @contextmanager
    def applied() -> Iterator[None]:
        sound = getattr(target, attribute)
        setattr(target, attribute, patch(sound))
        try:
            yield
        finally:
            setattr(target, attribute, sound)

    return Mutant(name, rule, story, applied, also or {})


def replaced(faulty: object) -> Patch:
    """The faulty function needs nothing of the sound one."""
    return lambda _: faulty

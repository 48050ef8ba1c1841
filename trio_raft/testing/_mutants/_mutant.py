"""What a mutant is, and how it is made: one attribute of the package, replaced for the time of a block."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs


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


Patch = Callable[[Any], Any]
"""Makes the faulty function from the sound one."""


def mutant(name: str, rule: str, story: str, target: object, attribute: str, patch: Patch) -> Mutant:
    @contextmanager
    def applied() -> Iterator[None]:
        sound = getattr(target, attribute)
        setattr(target, attribute, patch(sound))
        try:
            yield
        finally:
            setattr(target, attribute, sound)

    return Mutant(name, rule, story, applied)


def replaced(faulty: object) -> Patch:
    """The faulty function needs nothing of the sound one."""
    return lambda _: faulty

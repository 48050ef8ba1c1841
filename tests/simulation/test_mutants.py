"""The harness is able to fail: deliberate faults are caught; here the quick ones, all by the command."""

import re
from pathlib import Path

import pytest

from trio_raft._server import Server
from trio_raft.testing._mutants import MUTANTS
from trio_raft.testing._seed import run_seed

RULES = Path(__file__).parents[2] / "docs" / "rules.md"

QUICK = (
    "vote-before-durable",
    "vote-cleared",
    "half-is-a-majority",
    "match-from-rejection",
    "acknowledged-before-sync",
    "applies-before-durable",
    "tickets-survive",
    "leads-for-ever",
    "loss-is-death",
    "never-loyal-again",
    "log-cut-too-soon",
    "oldest-snapshots-kept",
    "restore-skipped",
    "segments-removed-too-soon",
)

ENOUGH = 10
"""Seeds; each of these mutants needs a few."""


def test_mutants_are_many_and_each_has_its_rule() -> None:
    """There are at least 24, each tied to a rule that exists and told in a sentence."""
    assert len(MUTANTS) >= 24
    known = re.findall(r"\b[A-Z]\d+\b", RULES.read_text())
    for name, mutant in MUTANTS.items():
        assert name == mutant.name
        assert mutant.rule in known, name
        assert mutant.story, name


@pytest.mark.parametrize("name", QUICK)
def test_mutant_is_caught(name: str) -> None:
    """A rule that is broken on purpose fails a seed (E2, E9, E11, N3, N4, R6, R7, S1, S6, S7, S11, X1)."""
    reports = (run_seed(seed, mutant=name) for seed in range(ENOUGH))
    caught = next(report for report in reports if not report.ok)
    assert f"seed {caught.seed}: " in caught.violation


def test_mutant_is_gone_afterwards() -> None:
    """A mutant changes nothing beyond its run."""
    before = Server.answer_vote
    run_seed(0, mutant="vote-before-durable")
    assert Server.answer_vote is before


def test_unknown_mutant() -> None:
    """A mutant that does not exist is refused with the list of those that do."""
    with pytest.raises(ValueError, match=r"there is no mutant 'no-such'\. Known: vote-before-durable, "):
        run_seed(0, mutant="no-such")

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
    "installed-again",
    "transfers-mixed",
)

ENOUGH = 20
"""Seeds; most of these mutants need a few."""


def test_mutants_are_many_and_each_has_its_rule() -> None:
    """There are at least 24, each tied to a rule that exists and told in a sentence."""
    assert len(MUTANTS) >= 24
    known = re.findall(r"\b[A-Z]\d+\b", RULES.read_text())
    for name, mutant in MUTANTS.items():
        assert name == mutant.name
        assert mutant.rule in known, name
        assert mutant.story, name


def test_mutants_know_what_may_catch_them() -> None:
    """Beside the checks of its rule a mutant is caught only by what its entry names, each with a reason."""
    known = re.findall(r"\b[A-Z]\d+\b", RULES.read_text())
    for name, mutant in MUTANTS.items():
        assert mutant.is_caught_by(f"A check of the rule ({mutant.rule})")
        assert not mutant.is_caught_by("A check of no rule")
        assert not mutant.is_caught_by("")
        for key, reason in mutant.also.items():
            assert len(reason.split()) > 3, (name, key)
            assert key in known or " " in key, (name, key)
            assert key != mutant.rule, name


@pytest.mark.parametrize("name", QUICK)
def test_mutant_is_caught(name: str) -> None:
    """A rule that is broken on purpose fails a seed by a check of that rule, or one that notices it
    (E2, E9, E11, N2, N3, N4, N5, R6, R7, S1, S6, S7, S11, X1).
    """
    reports = (run_seed(seed, mutant=name) for seed in range(ENOUGH))
    caught = next(report for report in reports if MUTANTS[name].is_caught_by(report.check))
    assert not caught.ok
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

"""Whole clusters of rules under chance: the properties of Figure 3 hold, and would be seen not to."""

from collections.abc import Callable
from random import Random

import pytest

from tests.rules.building import N1, N2, N3, N4, N5, PLENTY, THREE
from tests.rules.cluster import Cluster, Violation
from trio_raft._messages import AppendEntries, RequestVote
from trio_raft._records import LogIndex, Term
from trio_raft._rules import append_entries, install_snapshot, request_vote
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.request_vote import Tally
from trio_raft._rules.state import State

FIVE = Configuration((N1, N2, N3, N4, N5))
WITH_LEARNER = Configuration((N1, N2, N3), (N4,))

EPISODES = 40
BUDGET = 200
"""Runs within which a broken rule must be noticed."""


def run(seed: int, configuration: Configuration) -> Cluster:
    """A random life of a cluster, watched, which must end in agreement."""
    random = Random(seed)
    cluster = Cluster(configuration, memory_bytes=random.choice([0, 100, PLENTY]))
    for _ in range(EPISODES):
        cluster.episode(random)
        cluster.check()
    committed = list(cluster.watch.committed)
    leader = cluster.heal(random)
    cluster.check()
    for node in cluster.nodes.values():
        if node.disk != leader.disk or node.state.commit_index != len(leader.disk):
            raise Violation(f"{node.name} does not agree with {leader.name} in the end")
    if [each.record for each in leader.disk[: len(committed)]] != committed:
        raise Violation("a committed entry is gone")
    return cluster


@pytest.mark.parametrize("configuration", [THREE, FIVE, WITH_LEARNER], ids=["three", "five", "learner"])
@pytest.mark.parametrize("seed", range(12))
def test_cluster_keeps_the_five_properties(seed: int, configuration: Configuration) -> None:
    """Figure 3's properties hold in any run, also where logs are cut and snapshots installed (N1, N2)."""
    run(seed, configuration)


def test_runs_are_eventful() -> None:
    """The random runs do elect, commit, repair and crash: they are not safe for want of events."""
    clusters = [run(seed, FIVE) for seed in range(3)]
    assert min(len(cluster.watch.leaders) for cluster in clusters) >= 5
    assert min(len(cluster.watch.committed) for cluster in clusters) >= 20
    assert min(cluster.rejections for cluster in clusters) >= 3


def test_runs_install_snapshots() -> None:
    """Followers below the log get snapshots, over logs that keep a suffix and logs that go (N1, R9)."""
    installs = [kept for seed in range(10) for kept in run(seed, FIVE).installs]
    assert min(installs.count(True), installs.count(False)) >= 3


# ---------------------------------------------------------------------------------------------- it can fail


def _every_log_will_do(state: State, request: RequestVote) -> str:
    return ""


def _votes_for_everybody(state: State, candidate: object) -> str:
    state.voted_for = None
    return ""


def _any_two_are_enough(tally: Tally) -> bool:
    return len(tally.votes) >= 2


def _older_terms_count(state: State, matches: dict[object, LogIndex]) -> LogIndex:
    reached = state.configuration.quorum_value(matches)  # type: ignore[arg-type]
    return max(state.commit_index, reached or LogIndex(0))


def _believes_the_leader(state: State, request: AppendEntries) -> append_entries.Answer:
    answered = _ANSWER(state, request)
    if answered.reply.success:
        commit = max(state.commit_index, min(request.leader_commit, state.log.last_index))
        state.raise_commit(commit)
    return answered


def _everything_matches(log: Log, index: LogIndex, term: Term) -> bool:
    return index <= log.last_index


def _keeps_any_suffix(
    state: State, *, index: LogIndex, term: Term, configuration: Configuration
) -> install_snapshot.Installed | None:
    kept = index < state.log.last_index
    if kept:
        state.log.compact(index)
    else:
        state.log.reset(index, term)
    state.raise_commit(index)
    return install_snapshot.Installed(kept)


_ANSWER = append_entries.answer

FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "E1": lambda patch: patch.setattr(request_vote, "_vote_objection", _votes_for_everybody),
    "E3": lambda patch: patch.setattr(request_vote, "_log_objection", _every_log_will_do),
    "E4": lambda patch: patch.setattr(Tally, "won", property(_any_two_are_enough)),
    "R2": lambda patch: patch.setattr(append_entries, "committable", _older_terms_count),
    "R3": lambda patch: patch.setattr(append_entries, "answer", _believes_the_leader),
    "N1": lambda patch: patch.setattr(install_snapshot, "install", _keeps_any_suffix),
    "R4": lambda patch: patch.setattr(Log, "matches", _everything_matches),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_broken_rule_is_caught(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the rules, a run of the same kind ends in a violation before long."""
    FAULTS[rule](monkeypatch)
    for seed in range(BUDGET):
        try:
            run(seed, FIVE)
        except (Violation, AssertionError):
            return
    pytest.fail(f"{BUDGET} runs without {rule} and nothing noticed")

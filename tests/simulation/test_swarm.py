"""The swarm: fixed seeds pass, a seed repeats itself in every process, and what a seed may draw."""

import json
import os
import subprocess
import sys

import attrs
import pytest

from trio_raft.testing._counting import Counter
from trio_raft.testing._seed import STRIKES, run_seed
from trio_raft.testing._snapshot_faults import SNAPSHOT_FAULTS
from trio_raft.testing._swarm import FAULTS, NO_SNAPSHOTS, PROFILES, Plan, Wishes, draw_plan

SEEDS = range(16)
"""Of 20 virtual seconds each; a nightly run takes as many as its time allows."""

SECONDS = 3.0
"""Virtual seconds, where it does not matter how many."""


@pytest.mark.parametrize("seed", SEEDS)
def test_seed(seed: int) -> None:
    """A drawn cluster under drawn faults keeps every invariant, heals, has lost nothing and is linearizable
    (E1, E2, E4, R2, R4, R6, S1, S5, S11, Q1, X1).
    """
    report = run_seed(seed)
    assert report.violation == ""
    assert report.ok
    assert report.virtual_seconds > 20


def test_seed_repeats_itself_in_every_process() -> None:
    """One seed is one run: the same trace in two processes whose hashes differ, and in this one."""
    seeds = range(100, 103)
    first, second = (hashes_of_a_process(seeds, hash_seed=hash_seed) for hash_seed in ("1", "2"))
    assert first == second
    assert first == {str(seed): run_seed(seed, wishes=Wishes(seconds=SECONDS)).trace_hash for seed in seeds}
    assert len(dict.fromkeys(first.values())) == len(seeds)


def hashes_of_a_process(seeds: range, *, hash_seed: str) -> dict[str, str]:
    words = ["run", "--seeds", f"{seeds.start}:{seeds.stop}", "--seconds", f"{SECONDS:g}", "--json", "--processes", "1"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ended = subprocess.run(
        [sys.executable, "-m", "trio_raft.testing", *words],
        env=environment,
        capture_output=True,
        timeout=100,
        check=True,
    )
    hashes: dict[str, str] = json.loads(ended.stdout)["trace_hashes"]
    return hashes


def test_other_seed_is_another_run() -> None:
    """Seeds differ in what they draw."""
    plans = {str(attrs.evolve(draw_plan(seed), seed=0)) for seed in range(50)}
    assert len(plans) == 50


# ------------------------------------------------------------------------------------ what is drawn


def test_plans_of_many_seeds() -> None:
    """Among the seeds there are all sizes, every kind of fault, runs without any, and bounds of 1."""
    plans = [draw_plan(seed) for seed in range(300)]
    assert sorted({plan.settings.size for plan in plans}) == [1, 3, 4, 5, 7]
    assert {fault for plan in plans for fault in plan.faults} == set(FAULTS)
    assert any(not plan.faults for plan in plans)
    assert sorted({plan.workload.shape for plan in plans}) == ["lists", "values"]
    for bound in ("max_batch_entries", "pipeline_requests", "pending_bytes", "log_memory_bytes", "apply_batch_entries"):
        assert any(getattr(plan.settings.limits, bound) == 1 for plan in plans), bound


def test_faults_each_has_its_strike() -> None:
    """Every kind of fault that a plan may name can strike."""
    assert sorted(STRIKES) == sorted(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_alone(fault: str) -> None:
    """Each kind of fault strikes by itself, and a cluster of five survives it."""
    wishes = Wishes(seconds=5.0, size=5, faults=(fault,), ruined=2)
    if fault in SNAPSHOT_FAULTS:
        wishes = attrs.evolve(wishes, seconds=10.0, snapshots=True)
    if fault == "transfer cut":
        # It waits for a snapshot that is under way; one is sent where a member was left behind, which takes a while.
        wishes = attrs.evolve(wishes, seconds=20.0, faults=(fault, "left behind"))
    report = run_seed(1, wishes=wishes)
    assert report.violation == ""
    assert report.counts[f"fault: {fault}"] > 0


def test_crashes_tear_writes_and_come_again() -> None:
    """Crashes find long writes under way, and the recovery after one is put to the test by the next (S3, S4)."""
    reports = [run_seed(seed, wishes=Wishes(faults=("crash",)), trace=True) for seed in range(1, 4)]
    assert [report.violation for report in reports] == [""] * 3
    assert all(any("crash again: " in line for line in report.trace) for report in reports)
    assert sum(report.counts.get("torn tails cut", 0) for report in reports) > 0


def test_directory_errors_reach_the_disk() -> None:
    """Errors of creating files and of syncing their directory meet nodes that start, and those that prepare (S6)."""
    wishes = Wishes(faults=("directory error",), seconds=10.0)
    reports = [run_seed(seed, wishes=wishes) for seed in range(6)]
    assert [report.violation for report in reports] == [""] * 6
    for operation in ("create", "sync_directory"):
        assert sum(report.counts.get(f"disk: {operation} error", 0) for report in reports) > 0, operation


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_seed_with_snapshots(seed: int) -> None:
    """With tiny thresholds, short logs, and the faults that meet snapshots (N1, N2, N3, N7, N8, S6, S7, S8)."""
    report = run_seed(seed, wishes=Wishes(snapshots=True))
    assert report.violation == ""
    assert report.counts["snapshots taken"] > 0


def test_seeds_without_snapshots() -> None:
    """Whoever wishes it gets a log that only grows."""
    report = run_seed(1000, wishes=Wishes(snapshots=False, seconds=SECONDS))
    assert report.violation == ""
    assert "snapshots taken" not in report.counts


def test_plans_with_and_without_snapshots() -> None:
    """About two thirds of the seeds take snapshots, if nothing else is wished; each with settings of its own."""
    drawn = [draw_plan(seed).settings.snapshots for seed in range(300)]
    assert 170 < sum(snapshots != NO_SNAPSHOTS for snapshots in drawn) < 230
    assert len({str(snapshots) for snapshots in drawn}) > 150
    assert draw_plan(3, Wishes(snapshots=False)).settings.snapshots == NO_SNAPSHOTS
    assert NO_SNAPSHOTS not in [draw_plan(seed, Wishes(snapshots=True)).settings.snapshots for seed in range(100)]


@pytest.mark.parametrize("profile", PROFILES)
def test_profile(profile: str) -> None:
    """Each profile is a run that passes."""
    assert run_seed(0, wishes=Wishes(profile=profile, seconds=SECONDS)).violation == ""


def test_plan_without_a_majority_for_ever() -> None:
    """Faults that leave no majority for ever are refused, naming the seed and what would do."""
    with pytest.raises(ValueError, match=r"^seed 7: .* 2 of 3 members ruined .* no majority is left .*At most 1"):
        draw_plan(7, Wishes(size=3, faults=("wiped disk",), ruined=2))
    assert draw_plan(7, Wishes(size=5, faults=("wiped disk",), ruined=2)).ruined == 2


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        (Wishes(faults=("earthquake",)), "unknown faults earthquake. Known: crash, "),
        (Wishes(seconds=0.0), "a positive number of virtual seconds, not 0"),
        (Wishes(seconds=float("inf")), "a positive number of virtual seconds, not inf"),
        (Wishes(size=0), "a cluster has at least one member, not 0"),
        (Wishes(profile="busy"), "there is no profile 'busy'. Known: swarm, standard, idle"),
        (Wishes(ruined=-1), "a number of members, not -1"),
    ],
)
def test_plan_of_senseless_wishes(wishes: Wishes, problem: str) -> None:
    """Wishes that make no sense are refused, naming the seed."""
    with pytest.raises(ValueError, match=r"^seed 7: ") as caught:
        draw_plan(7, wishes)
    assert problem in str(caught.value)


def test_plan_says_everything() -> None:
    """A trace begins with what was drawn."""
    plan: Plan = draw_plan(5)
    assert str(plan).startswith(f"seed 5: {plan.settings.size} members, 20 virtual seconds")


def test_wishes_arguments() -> None:
    """Wishes are written as the command line takes them, so that a failed seed can be repeated."""
    assert Wishes().arguments == []
    wishes = Wishes(seconds=5.0, size=3, faults=("crash", "old copy"), ruined=1, profile="standard", snapshots=False)
    assert wishes.arguments == [
        *("--seconds", "5", "--profile", "standard", "--size", "3"),
        *("--faults", "crash,old copy", "--ruined", "1", "--snapshots", "off"),
    ]


# ------------------------------------------------------------------------------------ what may not pass


def test_error_of_the_kit_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not come to its end has failed, whatever the reason."""

    def stumble(*_: object) -> None:
        raise RuntimeError("the kit stumbled")

    monkeypatch.setattr(Counter, "watch", stumble)
    report = run_seed(0, wishes=Wishes(seconds=SECONDS))
    assert not report.ok
    assert "the kit stumbled" in report.violation
    assert report.trace

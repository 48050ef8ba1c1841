"""The commands of ``python -m trio_raft.testing``: what they print, their exit status, and how they end."""

import functools
import io
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_raft.testing.__main__ import main
from trio_raft.testing._chances import Chances, warnings
from trio_raft.testing._failures import NodeFailed
from trio_raft.testing._hunting import Hunt, Hunts
from trio_raft.testing._run import Done, Job, WorkerProcess, work
from trio_raft.testing._seed import SeedReport, run_seed
from trio_raft.testing._summary import Summary
from trio_raft.testing._swarm import FAULTS, Wishes

SHORT = ("--seconds", "2")
CAUGHT = ("half-is-a-majority", "0")
"""A mutant, and a seed that catches it."""


def test_run(capfd: pytest.CaptureFixture[str]) -> None:
    """The swarm says how fast it was, what was injected and what came of it, and that all passed."""
    assert main(["run", "--seeds", "0:3", *SHORT, "--processes", "1"]) == 0
    text = capfd.readouterr().out
    assert text.startswith("3 seeds, ")
    for part in ("seeds a second", "virtual seconds in a real second", "faults injected:", "elections", "lives"):
        assert part in text
    assert text.endswith("passed: 0 of 3 seeds failed\n")


def test_run_json(capfd: pytest.CaptureFixture[str]) -> None:
    """For machines there is one JSON object."""
    assert main(["run", "--seeds", "3:5", *SHORT, "--processes", "2", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["seeds"], result["passed"], result["failed"]) == (2, True, [])
    assert sorted(result["trace_hashes"]) == ["3", "4"]
    assert result["counts"]["lives"] >= 2


def test_run_minutes(capfd: pytest.CaptureFixture[str]) -> None:
    """With a time alone the seeds go on until it is over."""
    assert main(["run", "--minutes", "0.001", *SHORT, "--processes", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["seeds"] >= 1


def test_run_in_no_time(capfd: pytest.CaptureFixture[str]) -> None:
    """However short the time, one seed is run: a run of nothing would prove nothing."""
    assert main(["run", "--minutes", "0.0000001", *SHORT, "--processes", "2"]) == 0
    assert capfd.readouterr().out.endswith("passed: 0 of 1 seeds failed\n")


def test_run_of_a_cluster_at_rest(capfd: pytest.CaptureFixture[str]) -> None:
    """The speed of an idle cluster can be measured; no fault is missed in it."""
    assert main(["run", "--seeds", "0:1", *SHORT, "--profile", "idle", "--processes", "1", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    # Two clocks of the machine, of which neither need be ahead; test_summary_adds_up has the arithmetic.
    assert result["virtual_seconds_per_core_second"] > 0
    assert result["virtual_seconds_per_cpu_second"] > 0
    assert result["faults_that_never_struck"] == []


def test_run_of_wishes_that_one_seed_cannot_meet(capfd: pytest.CaptureFixture[str]) -> None:
    """A seed that drew a cluster too small for the wishes fails with the reason, and the others are run."""
    arguments = ["run", "--seeds", "30:34", *SHORT, "--faults", "wiped disk", "--ruined", "2", "--processes", "1"]
    assert main(arguments) == 1
    text = capfd.readouterr().out
    assert "no majority is left for ever" in text
    assert 'repeat with: python -m trio_raft.testing replay 31 --seconds 2 --faults "wiped disk" --ruined 2' in text


def test_replay(capsys: pytest.CaptureFixture[str]) -> None:
    """A seed is repeated with every line of its trace."""
    assert main(["replay", "3", *SHORT]) == 0
    text = capsys.readouterr().out
    assert "plan seed 3: " in text.splitlines()[0]
    assert "trace hash" in text
    assert text.endswith("passed\n")


def test_replay_last(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the trace only the last lines are shown, if so wished."""
    assert main(["replay", "3", *SHORT, "--last", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_replay_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed seed names the violation and the command that repeats it."""
    name, seed = CAUGHT
    assert main(["replay", seed, "--mutant", name, "--last", "1"]) == 1
    text = capsys.readouterr().out
    assert f"FAILED seed {seed}: " in text
    assert f"repeat with: python -m trio_raft.testing replay {seed} --mutant {name}" in text


def test_mutants(capfd: pytest.CaptureFixture[str]) -> None:
    """Each mutant is run until a seed fails; the table says which, and by what."""
    name, seed = CAUGHT
    assert main(["mutants", name, "--seeds", "0:5", "--processes", "1"]) == 0
    text = capfd.readouterr().out
    assert text.startswith(name)
    assert f"seed {seed}" in text
    assert "1 of 1 mutants caught" in text


def test_mutants_survivor(capfd: pytest.CaptureFixture[str]) -> None:
    """A mutant that no seed catches is a failure."""
    name, _ = CAUGHT
    assert main(["mutants", name, "--seeds", "0:1", "--size", "1", "--faults", "none", *SHORT, "--json"]) == 1
    result = json.loads(capfd.readouterr().out)
    [mutant] = result["mutants"]
    assert (mutant["name"], mutant["caught_by"], mutant["rule"]) == (name, None, "R7")
    assert not result["proved"]


# ------------------------------------------------------------------------------------ what counts as caught


def hunt_down(*runs: tuple[str | None, SeedReport]) -> Hunts:
    """Hunt one mutant through these runs, in this order; each says whether it is of the mutant."""
    caught: list[Hunt] = []
    hunts = Hunts([CAUGHT[0]], range(5, 50), Wishes(), on_caught=caught.append)
    [jobs] = hunts.chains()
    for expected, report in runs:
        job = next(jobs)
        assert (job.mutant, job.seed) == (expected, report.seed)
        assert hunts.note(job, Done(report=report, real_seconds=0.1))
    # Whoever is not caught is hunted on.
    assert [job.mutant for job in itertools.islice(jobs, 1)] == [hunt.name for hunt in hunts.survivors]
    assert [hunt.name for hunt in caught] == [hunt.name for hunt in hunts.hunts.values() if hunt.caught_by is not None]
    return hunts


def broken(seed: int, *, judged: bool = True, check: str = "Election Safety (E2, R7)") -> SeedReport:
    return make_done(seed, ok=False, judged=judged, violation=f"seed {seed}: two leaders", check=check).report


def test_hunt_that_a_control_confirms() -> None:
    """A mutant is caught by a seed that fails with it, and passes without."""
    name, _ = CAUGHT
    hunts = hunt_down((name, make_done(5).report), (name, broken(6)), (None, make_done(6).report))
    assert hunts.hunts[name].caught_by == 6
    assert hunts.proved
    assert "1 of 1 mutants caught, within 2 seeds" in hunts.end_of_table(interrupted=False)


def test_hunt_that_another_check_ends() -> None:
    """What fails by the check of another rule does not count; the hunt goes on, and the table says what failed."""
    name, _ = CAUGHT
    other = broken(5, check="Every proposal ends (X1)")
    hunts = hunt_down((name, other), (None, make_done(5).report), (name, make_done(6).report))
    assert hunts.hunts[name].caught_by is None
    assert not hunts.proved
    assert "caught otherwise: Every proposal ends (X1) (seed 5)" in hunts.end_of_table(interrupted=False)
    runs = (name, other), (None, make_done(5).report), (name, broken(6)), (None, make_done(6).report)
    hunts = hunt_down(*runs)
    assert hunts.proved
    assert hunts.hunts[name].line().endswith("Election Safety (E2, R7)")


def test_hunt_whose_control_fails_too() -> None:
    """A seed that fails without the mutant catches nothing, and is reported as a failure of the code that ships."""
    name, _ = CAUGHT
    hunts = hunt_down((name, broken(5)), (None, broken(5)), (name, make_done(6).report))
    assert hunts.hunts[name].caught_by is None
    text = hunts.end_of_table(interrupted=False)
    assert "not counted: without the mutant too: seed 5: two leaders" in text
    assert "WITHOUT ANY MUTANT: FAILED seed 5: two leaders\nrepeat with: python -m trio_raft.testing replay 5" in text
    assert [report["seed"] for report in hunts.plain(interrupted=False)["failed_controls"]] == [5]  # type: ignore[attr-defined]


def test_hunt_in_which_a_mutant_is_caught_and_a_control_fails() -> None:
    """The table is no proof as long as the code that ships fails a seed, even if every mutant is caught."""
    name, _ = CAUGHT
    runs = (name, broken(5)), (None, broken(5)), (name, broken(6)), (None, make_done(6).report)
    hunts = hunt_down(*runs)
    assert hunts.hunts[name].caught_by == 6
    assert not hunts.proved


def test_hunts_remember_a_control_that_failed() -> None:
    """Two hunts may run the same control at once: one that passes does not undo one that failed."""
    hunts = Hunts([CAUGHT[0]], range(5, 50), Wishes(), on_caught=lambda _: None)
    control = Job(seed=5, wishes=Wishes())
    hunts.note(control, Done(report=broken(5), real_seconds=0.1))
    hunts.note(control, Done(report=make_done(5).report, real_seconds=0.1))
    assert not hunts.controls[5].ok


@pytest.mark.parametrize(
    ("error", "judged"), [(AssertionError("two leaders"), True), (TypeError("a patch that fits no more"), False)]
)
def test_node_that_fails_by_a_slip_judges_nothing(error: Exception, judged: bool) -> None:
    """A mutant whose patch fits no more ends nodes, too; that says nothing about the rule that it was to break."""
    assert NodeFailed(0, "n1", error).judged is judged


def test_hunt_in_which_the_kit_fails() -> None:
    """An error of the kit says nothing about the mutant; whether it is there without it, too, the control says."""
    name, _ = CAUGHT
    hunts = hunt_down((name, broken(5, judged=False)), (None, make_done(5).report), (name, make_done(6).report))
    assert hunts.hunts[name].unproved == ["no judgement: seed 5: two leaders"]
    assert not hunts.proved


def test_hunt_in_which_the_kit_fails_without_a_mutant_too() -> None:
    """A hang that the code that ships shares is reported, though another seed catches the mutant."""
    name, _ = CAUGHT
    hang = broken(5, judged=False)
    hunts = hunt_down((name, hang), (None, hang), (name, broken(6)), (None, make_done(6).report))
    assert hunts.hunts[name].caught_by == 6
    assert not hunts.proved


def test_hunt_that_was_interrupted_proves_nothing() -> None:
    """The object for machines says so, as the exit status does."""
    name, _ = CAUGHT
    hunts = hunt_down((name, broken(5)), (None, make_done(5).report))
    assert hunts.plain(interrupted=False)["proved"] is True
    assert hunts.plain(interrupted=True)["proved"] is False


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "--seeds", "5"], "a range of seeds is FIRST:END, for example 0:200, not '5'"),
        (["run", "--seeds", "5:5"], "there is no seed in 5:5: END must be greater than FIRST"),
        (["run", "--seeds", "a:b"], "a seed is a whole number from 0 on, not 'a'"),
        (["replay", "-1"], "a seed is a whole number from 0 on, not '-1'"),
        (["replay", "x"], "a seed is a whole number from 0 on, not 'x'"),
        (["run", "--profile", "busy"], "invalid choice: 'busy'"),
        ([], "the following arguments are required: command"),
    ],
)
def test_arguments_that_do_not_parse(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is refused, with what would do."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "--minutes", "0"], "--minutes 0: must be positive"),
        (["run", "--processes", "0"], "--processes 0: must be at least 1"),
        (["run", "--seconds", "-1"], "seed 0: a run takes a positive number of virtual seconds, not -1.0"),
        (["run", "--seeds", "4:9", "--faults", "crash,flood"], "seed 4: unknown faults flood. Known: crash, "),
        (
            ["run", "--size", "3", "--ruined", "2", "--faults", "crash,wiped disk"],
            "seed 0: with the disks of 2 of 3 members ruined (bit flip, wiped disk, snapshot flip), no majority",
        ),
        (["replay", "3", "--mutant", "no-such"], "there is no mutant 'no-such'. Known: "),
        (["replay", "3", "--last", "-1"], "--last -1: must not be negative"),
        (["mutants", "no-such"], "there is no mutant no-such. Known: "),
    ],
)
def test_wishes_that_cannot_be_met(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What makes no sense is refused before anything runs, naming the seed where there is one."""
    assert main(arguments) == 2
    assert f"error: {problem}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            "--faults crash --ruined 1",
            "--ruined 1 changes nothing, since none of the --faults ruins a disk: bit flip, ",
        ),
        ("--faults crash,wiped-disk --ruined 0", "of the --faults wiped disk can do nothing: no disk may be ruined"),
        (
            "--faults snapshot-flip,transfer-cut --snapshots off",
            "of the --faults snapshot flip, transfer cut can do nothing: no snapshots are taken",
        ),
        ("--faults ring --size 3", "of the --faults ring can do nothing: the cluster has 3 members, and it takes 4"),
        ("--faults reset --size 1", "of the --faults reset can do nothing: the cluster has 1 member, and it takes 2"),
    ],
)
def test_options_that_contradict_each_other(options: str, warning: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Faults that cannot do anything beside the other options are told of, to people and to machines."""
    short = ["--seeds", "0:1", "--seconds", "0.1", "--processes", "1", *options.split()]
    assert main(["run", *short, "--json"]) == 0
    captured = capfd.readouterr()
    assert f"warning: {warning}" in captured.err
    assert json.loads(captured.out)["warnings"][0].startswith(warning)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(),
        Wishes(ruined=1),
        Wishes(ruined=0, snapshots=False, size=1),
        Wishes(faults=FAULTS),
        Wishes(faults=("wiped disk",), ruined=1, size=3),
        Wishes(faults=("snapshot flip",), snapshots=True),
    ],
)
def test_options_that_do_not(wishes: Wishes) -> None:
    """What a seed draws by itself is not held against anybody."""
    assert [warnings(wishes, seed) for seed in range(20)] == [[]] * 20


def test_faults_may_be_written_with_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    """A name with spaces needs no quotes; the help and the error say so."""
    assert main(["replay", "0", "--seconds", "0.1", "--faults", "old-copy,crash-many", "--last", "0"]) == 0
    assert main(["run", "--faults", "oldcopy"]) == 2
    assert "write them with hyphens: old-copy" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "crash,old-copy is the same as 'crash,old copy' in quotes" in " ".join(capsys.readouterr().out.split())


def test_help_lists_what_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The command by which a run starts its workers is not among them."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.findall(r"^    (\w+) ", capsys.readouterr().out, flags=re.MULTILINE) == ["run", "replay", "mutants"]


# ------------------------------------------------------------------------------------ processes


@pytest.mark.processes
def test_ctrl_c() -> None:
    """Ctrl-C ends a run at once, with what it has found so far, and leaves no process behind."""
    command = [sys.executable, "-m", "trio_raft.testing", "run", "--seeds", "0:100000", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The first progress: everything stands.
        assert "0/100000 seeds" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "INTERRUPTED" in output


@pytest.mark.processes
def test_hunt_of_which_nobody_wants_more() -> None:
    """A reader that is gone when the first mutant is caught ends the hunt without a traceback, too."""
    name, seed = CAUGHT
    seeds = f"{seed}:{int(seed) + 1}"
    command = [sys.executable, "-m", "trio_raft.testing", "mutants", name, "--seeds", seeds, "--processes", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.processes
def test_replay_of_which_nobody_wants_more() -> None:
    """A reader that has seen enough ends a replay without a traceback."""
    command = [sys.executable, "-m", "trio_raft.testing", "replay", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "plan seed 7" in process.stdout.readline()
        # It has far more to say than a pipe holds.
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_ctrl_c_in_a_replay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C comes out of a simulation in groups, and ends the command in a word."""

    def interrupt(*_: object, **__: object) -> None:
        raise BaseExceptionGroup("of a nursery", [BaseExceptionGroup("of another", [KeyboardInterrupt()])])

    monkeypatch.setattr("trio_raft.testing.__main__.run_seed", interrupt)
    assert main(["replay", "3"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_failure_beside_ctrl_c_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that comes in one group with the interruption is shown."""

    def fail(*_: object, **__: object) -> None:
        raise BaseExceptionGroup("of a nursery", [KeyboardInterrupt(), AssertionError("a bug")])

    monkeypatch.setattr("trio_raft.testing.__main__.run_seed", fail)
    with pytest.raises(BaseExceptionGroup):
        main(["replay", "3"])


@pytest.mark.processes
async def test_run_that_never_ends_has_failed() -> None:
    """A process that does not come to an end is killed, its seed has failed, and the next one is run by another."""
    async with WorkerProcess(seed_seconds=0.001) as worker:
        done = await worker.run(Job(seed=5, wishes=Wishes()))
    assert not done.report.ok
    assert done.report.violation == "seed 5: it did not end within 0.001 real seconds"


@pytest.mark.processes
async def test_process_that_dies_has_failed_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without an answer has failed its seed; another one takes its place."""
    async with WorkerProcess() as worker:
        opened = trio.lowlevel.open_process
        with monkeypatch.context() as patch:
            patch.setattr(trio.lowlevel, "open_process", functools.partial(open_instead, opened))
            done = await worker.run(Job(seed=5, wishes=Wishes(seconds=2.0)))
        assert done.report.violation == "seed 5: the process that ran it ended with status 3"
        assert (await worker.run(Job(seed=5, wishes=Wishes(seconds=2.0)))).report.ok


async def open_instead(opened: Callable[..., Awaitable[trio.Process]], _: object, **options: object) -> trio.Process:
    return await opened([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"], **options)


def test_work_answers_line_by_line() -> None:
    """A worker process answers each job with one line, until its input ends."""
    job = {"seed": 3, "wishes": {"seconds": 2.0, "faults": ["crash"]}, "mutant": None}
    answers = io.StringIO()
    work(io.StringIO(f"{json.dumps(job)}\n" * 2), answers)
    first, second = (json.loads(line)["report"] for line in answers.getvalue().splitlines())
    assert first == second
    assert (first["seed"], first["ok"]) == (3, True)


# ------------------------------------------------------------------------------------ the summary


def make_done(seed: int, **changes: object) -> Done:
    values = {
        "ok": True,
        "violation": "",
        "judged": True,
        "trace_hash": "h",
        "virtual_seconds": 20.0,
        "counts": {"fault: crash": 2},
    }
    return Done(report=SeedReport(seed=seed, **{**values, **changes}), real_seconds=0.5, cpu_seconds=0.25)  # type: ignore[arg-type]


def test_summary_adds_up() -> None:
    """Counts of all seeds are added, and the speed is that of one core."""
    summary = Summary(wishes=Wishes(), wanted=4, processes=2)
    for seed in range(2):
        summary.note(make_done(seed))
    assert (summary.speed, summary.cpu_speed) == (40.0, 80.0)
    plain = summary.plain(1.0)
    assert plain["virtual_seconds_per_core_second"] == 40.0
    assert plain["virtual_seconds_per_cpu_second"] == 80.0
    assert summary.counts == {"fault: crash": 4}
    assert (
        summary.progress(1.0)
        == "[###############...............] 2/4 seeds, 2.0/s, 40 virtual in 1 real seconds, 0 failed"
    )
    assert plain["faults_that_never_struck"] == [fault for fault in FAULTS if fault != "crash"]


def summary_of(seeds: int, **wishes: Any) -> Summary:
    summary = Summary(wishes=Wishes(**wishes), wanted=seeds, processes=1)
    for seed in range(seeds):
        summary.note(make_done(seed))
    return summary


def test_absent_faults_of_a_short_run_are_no_news() -> None:
    """After two seeds a fault was not drawn, or it has had few chances; after many it should have struck."""
    text = summary_of(2).text(1.0)
    assert "faults not drawn in 2 seeds: " in text
    assert "drawn, but they have not struck yet, which is no surprise in so short a run: " in text
    assert "NEVER STRUCK" not in text
    assert summary_of(2).plain(1.0)["faults_that_should_have_struck"] == []


def test_absent_faults_of_a_long_run_are() -> None:
    """A fault that was drawn in a hundred seeds and never struck is pointed out."""
    summary = summary_of(100)
    assert "FAULTS THAT NEVER STRUCK, though they were tried often enough: " in summary.text(1.0)
    assert "kill" in summary.plain(1.0)["faults_that_should_have_struck"]  # type: ignore[operator]
    assert "crash" not in summary.plain(1.0)["faults_that_should_have_struck"]  # type: ignore[operator]


def test_absent_faults_that_find_nothing_to_do() -> None:
    """A fault for which the options leave no place is not missed, however many seeds were run."""
    summary = summary_of(100, faults=("crash", "snapshot flip"), snapshots=False)
    assert "drawn, but with nothing that they could do in these runs: snapshot flip" in summary.text(1.0)
    assert summary.plain(1.0)["faults_that_should_have_struck"] == []


def test_estimate_of_tries_is_of_the_right_size() -> None:
    """What strikes in real runs is neither ten times as often, nor ten times as seldom, as the estimate says."""
    chances = Chances(Wishes(seconds=10.0, faults=("pause", "reset", "short stall")))
    struck = 0
    for seed in range(4):
        chances.note(seed)
        counts = run_seed(seed, wishes=Wishes(seconds=10.0, faults=("pause", "reset", "short stall"))).counts
        struck += sum(counts.get(f"fault: {fault}", 0) for fault in chances.drawn)
    assert 0.1 < struck / sum(chances.tries.values()) < 10


def test_summary_never_passes_without_a_seed() -> None:
    """Nothing was run, so nothing was proved."""
    summary = Summary(wishes=Wishes(), wanted=0, processes=1)
    assert summary.text(1.0).endswith("FAILED: 0 of 0 seeds failed")
    assert summary.plain(1.0)["passed"] is False


def test_summary_never_passes_with_a_violation() -> None:
    """One failed seed fails the whole run, in the text and for machines."""
    summary = Summary(wishes=Wishes(), wanted=2, processes=1)
    summary.note(make_done(0, ok=False, violation="seed 0: two leaders"))
    summary.note(make_done(1))
    assert summary.text(1.0).endswith("FAILED: 1 of 2 seeds failed")
    assert "FAILED seed 0: two leaders\nrepeat with: python -m trio_raft.testing replay 0" in summary.text(1.0)
    assert summary.plain(1.0)["passed"] is False

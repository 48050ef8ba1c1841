"""The pytest plugin as a user meets it: in a pytest of its own, in a directory that knows nothing of this project."""

import importlib.metadata
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import trio_raft.testing
from tests.simulation.simulated import Counter
from trio_raft.testing import running_cluster

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "test_counter.py"
PLUGIN = "trio_raft.testing._pytest"

MACHINE = """
import pytest, trio, trio_raft

class Counter(trio_raft.StateMachine[int, int]):
    total = 0

    def apply(self, entry):
        self.total += entry.command
        return self.total
"""


def run_pytest(directory: Path, *arguments: str | Path, source: str = "") -> tuple[int, str]:
    """(exit code, output) of pytest in that directory, on a test module with this source if there is one."""
    if source:
        (directory / "test_module.py").write_text(MACHINE + source)
    # Where the package is installed pytest finds the plugin by itself; here it may only be on the path.
    load = [] if is_installed() else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *load, *map(str, arguments)]
    (directory / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        command,
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def is_installed() -> bool:
    return any(point.value == PLUGIN for point in importlib.metadata.entry_points(group="pytest11"))


def test_plugin_is_announced() -> None:
    """Installing the package is enough for pytest to find the fixtures."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
    assert any(requirement.startswith("pytest-trio") for requirement in project["optional-dependencies"]["test"])


def test_example_passes(tmp_path: Path) -> None:
    """The example passes with plain pytest, copied anywhere, and is shorter than 20 lines."""
    (tmp_path / EXAMPLE.name).write_bytes(EXAMPLE.read_bytes())
    code, output = run_pytest(tmp_path, EXAMPLE.name)
    assert "1 passed" in output, output
    assert code == 0
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 20


def test_failure_says_how_to_repeat_it(tmp_path: Path) -> None:
    """A test that fails prints the seed and the command that repeats it."""
    code, output = run_pytest(
        tmp_path,
        "--raft-seed",
        "12",
        source="""
async def test_wrong(raft_cluster):
    async with raft_cluster(Counter) as cluster:
        assert await cluster.client().propose(2) == 3
""",
    )
    assert code == 1, output
    assert "assert 2 == 3" in output
    assert "simulated cluster, seed 12; what happened last:" in output
    assert "To repeat it: pytest test_module.py::test_wrong --raft-seed 12" in output


def test_fixtures(tmp_path: Path) -> None:
    """Virtual time needs no clock and accepts one; a parametrized seed runs under each; settings reach the cluster."""
    code, output = run_pytest(
        tmp_path,
        source="""
@pytest.mark.parametrize("raft_seed", range(3))
async def test_seeds(raft_cluster, raft_seed):
    async with raft_cluster(Counter, size=1) as cluster:
        assert (cluster.seed, cluster.ids) == (raft_seed, ("n1",))
        await trio.sleep(500.0)

async def test_clock(raft_cluster, autojump_clock):
    async with raft_cluster(Counter) as cluster:
        await cluster.wait_leader()
        assert trio.current_time() == autojump_clock.current_time()

@pytest.mark.trio
async def test_marked(raft_cluster):
    async with raft_cluster(Counter) as cluster:
        assert cluster.seed == 0

def test_other():
    pass
""",
    )
    assert "6 passed" in output, output
    assert code == 0


def test_runs_repeat(tmp_path: Path) -> None:
    """Two runs of pytest with one seed, under different hash seeds, see the same; another seed sees something else."""
    source = """
async def test_print(raft_cluster):
    async with raft_cluster(Counter) as cluster:
        client = cluster.client()
        for number in range(5):
            await client.propose(number)
        await cluster.crash(cluster.leader().node_id)
    print("digest", cluster.trace.digest())
"""
    digests = [
        next(
            line
            for line in run_pytest(tmp_path, "-s", "--raft-seed", seed, source=source)[1].split()
            if len(line) == 64
        )
        for seed in ("1", "1", "2")
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_without_pytest_trio(tmp_path: Path) -> None:
    """Without pytest-trio the fixture says what to install."""
    code, output = run_pytest(
        tmp_path,
        "-p",
        "no:trio",
        source="""
async def test_alone(raft_cluster):
    async with raft_cluster(Counter) as cluster:
        pass
""",
    )
    assert code == 1
    assert "raft_cluster needs pytest-trio: pip install 'trio_raft[test]'" in output


@pytest.mark.skipif(not is_installed(), reason="the package is on the path, but not installed")
def test_loaded_twice(tmp_path: Path) -> None:
    """To name the plugin in a conftest.py as well is fine."""
    (tmp_path / "conftest.py").write_text(f"pytest_plugins = ['{PLUGIN}']\n")
    code, output = run_pytest(tmp_path, source="def test_nothing(raft_seed):\n    assert raft_seed == 0\n")
    assert code == 0, output


def test_example_of_the_head_comment(tmp_path: Path) -> None:
    """The example in the kit's head comment runs as it stands there."""
    lines = (trio_raft.testing.__doc__ or "").splitlines()
    first = lines.index("    import trio_raft")
    last = next(place for place, line in enumerate(lines) if line.startswith("``raft_cluster`` is"))
    (tmp_path / "test_head.py").write_text(textwrap.dedent("\n".join(lines[first:last])))
    code, output = run_pytest(tmp_path, "test_head.py")
    assert "1 passed" in output, output
    assert code == 0


@pytest.mark.parametrize("name", ["snapshots", "timeouts"])
async def test_setting_as_an_argument(raft_cluster: trio_raft.testing.StartCluster, name: str) -> None:
    """Whoever gives a setting to the fixture itself is told where it belongs."""
    told = re.escape(
        f"raft_cluster() takes no argument '{name}'; it is a setting: raft_cluster(machine, ClusterSettings("
    )
    with pytest.raises(TypeError, match=told):
        raft_cluster(Counter, **{name: None})
    with pytest.raises(
        TypeError, match=r"^running_cluster\(\) takes no argument '.*'; it is a setting: running_cluster"
    ):
        async with running_cluster(Counter, **{name: None}):  # type: ignore[arg-type]
            pass


async def test_argument_that_nobody_knows(raft_cluster: trio_raft.testing.StartCluster) -> None:
    """Whatever else is given is refused with what there is, and a seed with where it comes from."""
    with pytest.raises(
        TypeError, match=r"takes no argument 'sise'; what a cluster is made of is in ClusterSettings: size"
    ):
        raft_cluster(Counter, sise=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes its seed from --raft-seed, or from a parametrized raft_seed"):
        raft_cluster(Counter, seed=3)  # type: ignore[call-arg]

"""The README says what the code says: its program runs, its tables are those of the settings and errors."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio.testing

import trio_raft
from trio_raft._config import Snapshots, Timeouts
from trio_raft._errors import HandshakeRefused, ProtocolError, RaftError
from trio_raft.testing._environment import test_environment
from trio_raft.testing._network import MemoryNetwork

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_timeouts_table_holds_every_timeout_with_its_default() -> None:
    """The table of timeouts has a row for each setting, in order, with the default that is in force."""
    assert _rows(_section("## Settings")) == list(attrs.asdict(Timeouts()).items())


def test_snapshots_table_holds_every_setting_with_its_default() -> None:
    """The table of snapshots has a row for each setting, in order, with the default that is in force."""
    assert _rows(_section("## Snapshots")) == list(attrs.asdict(Snapshots()).items())


def test_saved_counter_comes_back() -> None:
    """The two methods that the README shows save the counter of the first screen, and bring it back."""
    first, saved = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[:2]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(first.rpartition("async def main")[0] + saved, "README.md", "exec"), names)
    counter, other = names["SavedCounter"](), names["SavedCounter"]()
    counter.value = 42
    state = trio_raft.SavedState(trio_raft.LogIndex(1), trio_raft.Term(1), 1, iter(counter.snapshot()))
    other.restore(state)
    assert other.value == 42


def _section(title: str) -> str:
    begin = README.index(title + "\n")
    return README[begin : README.index("\n## ", begin)]


def _rows(section: str) -> list[tuple[str, float]]:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", section, flags=re.MULTILINE)
    return [(name, float(value)) for name, value in rows]


def test_errors_table_names_every_public_error() -> None:
    """The table of errors names each error that a caller can meet."""
    section = README[README.index("## When something goes wrong") : README.index("## Settings")]
    # These two are between servers: a caller sees them only as events.  The simulation kit has errors of its own.
    named = {error for error in _subclasses(RaftError) if error.__module__ == RaftError.__module__}
    public = named - {ProtocolError, HandshakeRefused}
    assert {error.__name__ for error in public if f"`{error.__name__}`" not in section} == set()


def _subclasses(error: type[RaftError]) -> list[type[RaftError]]:
    return [found for child in error.__subclasses__() for found in (child, *_subclasses(child))]


async def test_program_runs(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program on the first screen runs as printed, three times over, and its leader adds one."""
    source = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert source is not None
    program, _, call = source[1].rpartition("try:\n")
    assert call.split() == ["trio.run(main,", "sys.argv[1])", "except", "KeyboardInterrupt:", 'print("stopped")']
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    main = cast(Callable[[str], Awaitable[None]], names["main"])
    network = MemoryNetwork()
    open_node = trio_raft.open_node

    def open_in_memory(config: trio_raft.Config, machine: trio_raft.StateMachine[object, object]) -> object:
        return open_node(
            config,
            machine,
            log_store=trio_raft.MemoryLogStore(),
            transport=network.transport(config.node_id),
            environment=test_environment(int(config.node_id[1:])),
        )

    monkeypatch.setattr(trio_raft, "open_node", open_in_memory)
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            for node_id in ("n1", "n2", "n3"):
                nursery.start_soon(main, node_id)
    assert capsys.readouterr().out.splitlines() == ["added: the counter is 1", "read: 1"]


def test_kit_example_is_the_one_that_is_run() -> None:
    """The test that the README shows stands, word for word, in the example that is run."""
    shown = re.findall(r"```python\n(.*?)```", _section("## Test your own program under faults"), flags=re.DOTALL)[0]
    assert shown in (Path(__file__).parent.parent / "examples" / "test_counter.py").read_text()


def test_toml_example_is_a_configuration(tmp_path: Path) -> None:
    """The settings file that the README shows is read as it stands."""
    shown = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)[0]
    path = tmp_path / "n1.toml"
    path.write_text(shown)
    assert trio_raft.Config.from_toml(path).members["n2"] == "10.0.0.2:7101"  # type: ignore[index]

"""Settings: every relation is checked, and every mistake in a file is named by the path of its key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_raft._config import KIBIBYTE, MEBIBYTE, Config, Limits, Snapshots, Timeouts, split_address
from trio_raft._errors import ConfigurationError

MEMBERS = {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002", "n3": "[::1]:7003"}

MINIMAL = """
node_id = "n1"
cluster_id = "demo"
data_directory = "/var/lib/demo"
[members]
n1 = "127.0.0.1:7001"
n2 = "127.0.0.1:7002"
n3 = "[::1]:7003"
"""


def in_file(directory: Path, text: str) -> Config:
    path = directory / "node.toml"
    path.write_text(text)
    return Config.from_toml(path)


def make_config(**changes: object) -> Config:
    settings: dict[str, object] = {
        "node_id": "n1",
        "cluster_id": "demo",
        "members": MEMBERS,
        "data_directory": "/var/lib/demo",
    }
    return Config(**(settings | changes))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- timeouts and limits

SMALLER_THAN = [
    ("leader_lease_timeout", "heartbeat_timeout"),
    ("heartbeat_timeout", "election_timeout"),
    ("commit_timeout", "heartbeat_timeout"),
    ("disk_stall_timeout", "request_timeout"),
    ("request_timeout", "replication_stall_timeout"),
    ("retry_backoff", "retry_backoff_cap"),
]


@pytest.mark.parametrize(("smaller", "larger"), SMALLER_THAN)
def test_timeouts_relation(smaller: str, larger: str) -> None:
    """Lease ≤ heartbeat ≤ election, and every other relation of durations, is checked when they are made (E9)."""
    limit = getattr(Timeouts(), larger)
    assert getattr(Timeouts(**{smaller: limit}), smaller) == limit
    with pytest.raises(ConfigurationError) as caught:
        Timeouts(**{smaller: limit * 1.01})
    assert caught.value.key == f"timeouts.{smaller}"
    assert f"timeouts.{larger}" in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Timeouts)])
def test_timeouts_are_positive_and_finite(name: str, value: float) -> None:
    """No duration may be zero, negative, infinite or no number."""
    with pytest.raises(ConfigurationError) as caught:
        Timeouts(**{name: value})
    assert caught.value.key == f"timeouts.{name}"


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Limits)])
def test_limits_are_positive(name: str) -> None:
    """Nothing may be bounded by zero."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{name: 0})
    assert caught.value.key == f"limits.{name}"


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Snapshots)])
def test_snapshots_are_finite_and_not_negative(name: str, value: Any) -> None:
    """No setting of snapshots may be negative, infinite or no number."""
    with pytest.raises(ConfigurationError) as caught:
        Snapshots(**{name: value})
    assert caught.value.key == f"snapshots.{name}"


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Snapshots)])
def test_snapshots_off_at_zero(name: str) -> None:
    """Zero turns a trigger, a rate or a reserve off; a store that keeps nothing makes no sense, nor do empty pieces."""
    if name in ("keep", "chunk_bytes"):
        with pytest.raises(ConfigurationError, match="must be at least 1"):
            Snapshots(**{name: 0})
    else:
        Snapshots(**{name: 0})


@pytest.mark.parametrize("name", ["max_command_bytes", "max_batch_bytes"])
def test_limits_largest_batch_fits_a_frame(name: str) -> None:
    """A command with its record, and a whole batch, fit into the largest frame."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{name: 8 * MEBIBYTE + 1})
    assert caught.value.key == "limits.max_frame_body"


def test_limits_largest_write_fits_a_segment() -> None:
    """One write to the log, its last item included, fits into a segment."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(segment_bytes=12 * MEBIBYTE)
    assert caught.value.key == "limits.segment_bytes"


def test_limits_small_ones_fit_together() -> None:
    """Small limits for tests and small machines are accepted, where their relations hold."""
    limits = Limits(
        max_command_bytes=KIBIBYTE,
        max_batch_bytes=2 * KIBIBYTE,
        max_frame_body=4 * KIBIBYTE,
        journal_batch_bytes=8 * KIBIBYTE,
        segment_bytes=128 * KIBIBYTE,
    )
    assert limits.largest_batch == 2 * KIBIBYTE


def test_heartbeat_interval_is_a_tenth() -> None:
    """Heartbeats go out every tenth of the heartbeat timeout."""
    assert Timeouts(heartbeat_timeout=0.5, leader_lease_timeout=0.2).heartbeat_interval == pytest.approx(0.05)


@pytest.mark.parametrize("value", ["1", None, True, b"1", [1.0]])
@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Timeouts)])
def test_timeouts_are_numbers(name: str, value: Any) -> None:
    """What is no number is refused by the name of its setting, and is not made one."""
    with pytest.raises(ConfigurationError) as caught:
        Timeouts(**{name: value})
    assert str(caught.value) == f"timeouts.{name}: must be a number of seconds, not {value!r}"


@pytest.mark.parametrize("value", ["1", None, True, 1.0, 1.5])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *((Limits, field.name) for field in attrs.fields(Limits)),
        *((Snapshots, field.name) for field in attrs.fields(Snapshots) if field.name != "interval"),
    ],
)
def test_sizes_and_counts_are_whole_numbers(settings: Callable[..., object], name: str, value: Any) -> None:
    """Nobody can keep one and a half of anything."""
    with pytest.raises(ConfigurationError) as caught:
        settings(**{name: value})
    assert caught.value.key.endswith(f".{name}")
    assert caught.value.problem == f"must be a whole number, not {value!r}"


# ------------------------------------------------------------------------------------------- one node


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"node_id": ""}, "node_id"),
        ({"cluster_id": ""}, "cluster_id"),
        ({"node_id": "n4"}, "members"),
        ({"members": {}}, "members"),
        ({"members": MEMBERS | {"": "h:1"}}, "members"),
        ({"members": MEMBERS | {"n2": "7002"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": "host:"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": ":7002"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": "host:http"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": "host:65536"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": "host:-1"}}, "members.n2"),
        ({"members": MEMBERS | {"n2": "host:0"}}, "members.n2"),
        ({"listen": "everywhere"}, "listen"),
        ({"data_directory": ""}, "data_directory"),
    ],
)
def test_config_wrong_value(changes: dict[str, object], key: str) -> None:
    """A wrong value is refused when the configuration is made, by the name of its setting."""
    with pytest.raises(ConfigurationError) as caught:
        make_config(**changes)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")


WRONG = ("127.0.0.1", 7002)
A_MAPPING = 'a mapping of ids to addresses, for example {"n1": "127.0.0.1:7000"}'
AN_ADDRESS = "host:port, for example 127.0.0.1:7000"
A_TABLE = "(...) (Config.from_mapping takes plain tables)"


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"node_id": 1}, "node_id", "a string"),
        ({"cluster_id": None}, "cluster_id", "a string"),
        ({"members": [("n1", "127.0.0.1:7001")]}, "members", A_MAPPING),
        ({"members": "n1"}, "members", A_MAPPING),
        ({"members": {1: "127.0.0.1:7001"}}, "members", "a mapping whose ids are strings"),
        ({"members": MEMBERS | {"n2": WRONG}}, "members.n2", AN_ADDRESS),
        ({"data_directory": None}, "data_directory", "the path of a directory"),
        ({"data_directory": b"/var/lib"}, "data_directory", "the path of a directory"),
        ({"listen": None}, "listen", AN_ADDRESS),
        ({"listen": 7001}, "listen", AN_ADDRESS),
        ({"timeouts": {"heartbeat_timeout": 1.0}}, "timeouts", "trio_raft.Timeouts" + A_TABLE),
        ({"limits": None}, "limits", "trio_raft.Limits" + A_TABLE),
        ({"snapshots": {"keep": 2}}, "snapshots", "trio_raft.Snapshots" + A_TABLE),
    ],
)
def test_config_wrong_type(changes: dict[str, Any], key: str, expected: str) -> None:
    """A wrong type is refused as a wrong value is: by the name of the setting, with what stands there."""
    with pytest.raises(ConfigurationError) as caught:
        make_config(**changes)
    assert caught.value.key == key
    assert caught.value.problem.startswith(f"must be {expected}, not ")
    # What stands there: the setting itself, or the one key or value in it that is wrong.
    [given] = changes.values()
    assert any(caught.value.problem.endswith(f", not {found!r}") for found in (given, 1, WRONG))


def test_config_wrong_value_is_not_told_at_any_length() -> None:
    """A long address is told in full, a long list is not."""
    address = "h" * 100
    with pytest.raises(ConfigurationError, match=address):
        make_config(members=MEMBERS | {"n2": address})
    with pytest.raises(ConfigurationError) as caught:
        make_config(members=[("n1", "127.0.0.1:7001")] * 1000)
    assert len(str(caught.value)) < 500


def test_config_port_0_is_for_listening_only() -> None:
    """Nobody can dial port 0; a program that is alone may let the system choose where it listens."""
    with pytest.raises(ConfigurationError, match="a port that its peers can dial, from 1 to 65535, not 'host:0'"):
        make_config(members={"n1": "host:0"})
    assert make_config(listen="host:0").listen_address == "host:0"


@pytest.mark.parametrize("directory", ["/var/lib/demo", Path("/var/lib/demo")])
def test_config_directory_is_any_path(directory: object) -> None:
    """A path may be a string or a path."""
    assert make_config(data_directory=directory).data_directory == Path("/var/lib/demo")


@pytest.mark.parametrize(
    ("first", "second"), [("host:7001", "host:7001"), ("host:7001", "HOST:07001"), ("[::1]:1", "[::1]:1")]
)
def test_config_two_members_with_one_address(first: str, second: str) -> None:
    """Two members cannot stand at one address, however it is written."""
    with pytest.raises(ConfigurationError) as caught:
        make_config(members={"n1": first, "n2": second})
    assert caught.value.key == "members.n2"
    assert str(caught.value) == f"members.n2: has the same address as n1, {second}"


def test_config_listens_where_its_peers_dial_unless_told() -> None:
    """``listen`` overrides the own entry of ``members`` for binding only."""
    assert make_config().listen_address == "127.0.0.1:7001"
    assert make_config(listen="0.0.0.0:7001").listen_address == "0.0.0.0:7001"


def test_split_address() -> None:
    """Hosts are names, numbers, or IPv6 in brackets."""
    assert split_address("k", "example.org:80") == ("example.org", 80)
    assert split_address("k", "[::1]:7003") == ("::1", 7003)


# ------------------------------------------------------------------------------------------- files


def test_from_toml_minimal(tmp_path: Path) -> None:
    """A file with the four necessary settings gives the same as the class with its defaults."""
    assert in_file(tmp_path, MINIMAL) == make_config()


def test_from_toml_everything(tmp_path: Path) -> None:
    """Durations and bounds stand in tables of their own; a whole number is a fine number of seconds."""
    text = 'listen = "0.0.0.0:7001"\n' + MINIMAL + "[timeouts]\nelection_timeout = 3\n[limits]\nevent_buffer = 10\n"
    config = in_file(tmp_path, text)
    assert config.timeouts == Timeouts(election_timeout=3.0)
    assert isinstance(config.timeouts.election_timeout, float)
    assert config.limits == Limits(event_buffer=10)
    assert config.listen == "0.0.0.0:7001"


@pytest.mark.parametrize(
    ("addition", "key", "says"),
    [
        ("[timeouts]\nheartbeat = 1.0", "timeouts.heartbeat", "no such key; did you mean heartbeat_timeout?"),
        ("[limits]\nbig = 1", "limits.big", "no such key; the keys are max_command_bytes, max_batch_entries, "),
        ("[extra]\na = 1", "extra", "no such key; the keys are node_id, cluster_id, members, "),
        ("[timeout]\na = 1", "timeout", "no such key; did you mean timeouts?"),
        ('[timeouts]\nheartbeat_timeout = "1.0"', "timeouts.heartbeat_timeout", "'1.0'"),
        ("[timeouts]\nheartbeat_timeout = true", "timeouts.heartbeat_timeout", "True"),
        ("[timeouts]\nheartbeat_timeout = nan", "timeouts.heartbeat_timeout", "nan"),
        ("[timeouts]\nheartbeat_timeout = 5.0", "timeouts.heartbeat_timeout", "election_timeout"),
        ("[limits]\nevent_buffer = 1.5", "limits.event_buffer", "1.5"),
        ("[limits]\nevent_buffer = true", "limits.event_buffer", "True"),
        ('[limits]\nevent_buffer = "10"', "limits.event_buffer", "'10'"),
        ("[limits]\nevent_buffer = 0", "limits.event_buffer", "at least 1"),
        ("n4 = 7004", "members.n4", "7004"),
        ('n4 = "7004"', "members.n4", "host:port"),
    ],
)
def test_from_toml_mistake_is_named_by_its_path(tmp_path: Path, addition: str, key: str, says: str) -> None:
    """An unknown key, a wrong type and a wrong value are each named by the path of the key; nothing is coerced (W5)."""
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, MINIMAL + addition)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")
    assert says in str(caught.value)
    assert str(caught.value).endswith(f" (in {tmp_path / 'node.toml'})")


@pytest.mark.parametrize("name", ["node_id", "cluster_id", "data_directory", "members"])
def test_from_toml_missing_key(tmp_path: Path, name: str) -> None:
    """A missing setting is named."""
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(name)]
    text = "\n".join(lines).split("[members]")[0] if name == "members" else "\n".join(lines)
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, text)
    assert str(caught.value) == f"{name}: missing (in {tmp_path / 'node.toml'})"
    assert caught.value.key == name


def test_from_toml_empty(tmp_path: Path) -> None:
    """An empty file lacks every setting without a default: the key is the first, all are named."""
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, "")
    assert caught.value.key == "node_id"
    expected = "node_id: missing; cluster_id: missing; members: missing; data_directory: missing"
    assert str(caught.value) == f"{expected} (in {tmp_path / 'node.toml'})"


def test_from_mapping_missing_and_unknown_key() -> None:
    """A key that is missing because it is misspelt is named with the one that stands in its place."""
    table = {"nodeid": "n1", "cluster_id": "demo", "members": MEMBERS, "data_directory": "d", "limits": {"big": 1}}
    with pytest.raises(ConfigurationError) as caught:
        Config.from_mapping(table)
    assert caught.value.key == "node_id"
    expected = "node_id: missing; nodeid: no such key; did you mean node_id?; limits.big: no such key; the keys are "
    assert str(caught.value).startswith(expected)


def test_from_mapping_wrong_value_is_told_once() -> None:
    """The text of a wrong value is its key and what was found, nothing of the machinery that found it."""
    table = {"node_id": "n1", "cluster_id": "demo", "members": MEMBERS, "data_directory": 5}
    with pytest.raises(ConfigurationError) as caught:
        Config.from_mapping(table)
    assert str(caught.value) == "data_directory: expected str, got 5"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("node_id = 1", "node_id"),
        ('cluster_id = ["demo"]', "cluster_id"),
        ("data_directory = 5", "data_directory"),
        ("listen = 7001", "listen"),
    ],
)
def test_from_toml_wrong_type_at_the_top(tmp_path: Path, line: str, key: str) -> None:
    """Names and paths must be strings; a number is not turned into one (W5)."""
    kept = [other for other in MINIMAL.splitlines() if not other.startswith(f"{key} =")]
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, "\n".join([line, *kept]))
    assert caught.value.key == key


@pytest.mark.parametrize("name", ["members", "timeouts", "limits"])
def test_from_toml_table_expected(tmp_path: Path, name: str) -> None:
    """What must be a table is refused as anything else."""
    text = MINIMAL if name != "members" else MINIMAL.split("[members]", maxsplit=1)[0]
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, f"{name} = 3\n{text}")
    assert caught.value.key == name
    assert "must be a table" in str(caught.value)


def test_from_toml_several_mistakes(tmp_path: Path) -> None:
    """Several mistakes are all in the message."""
    text = MINIMAL + '[limits]\nevent_buffer = "a"\nmax_connections = "b"\n'
    with pytest.raises(ConfigurationError) as caught:
        in_file(tmp_path, text)
    assert "limits.event_buffer" in str(caught.value)
    assert "limits.max_connections" in str(caught.value)


def test_from_toml_unreadable(tmp_path: Path) -> None:
    """A file that is missing or no TOML is named."""
    with pytest.raises(ConfigurationError, match=r"nothing\.toml"):
        Config.from_toml(tmp_path / "nothing.toml")
    with pytest.raises(ConfigurationError, match=r"node.toml is not valid TOML"):
        in_file(tmp_path, "node_id = ")
    (tmp_path / "bytes.toml").write_bytes(b'node_id = "\xff"')
    with pytest.raises(ConfigurationError, match=r"bytes.toml"):
        Config.from_toml(tmp_path / "bytes.toml")

"""Every setting of a node, in one validated table each for durations and bounds.

``Timeouts`` and ``Limits`` check their own relations when they are made, so that a node never starts with, say, a
leader lease that outlives the followers' patience.  ``Config.from_toml`` reads the same classes from a file and names
the path of a wrong key (``_mistakes.py``).

House rule: settings are frozen; nothing in the package computes a duration that is not derived from this page.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs

from trio_raft._errors import ConfigurationError
from trio_raft._messages import ServerId
from trio_raft._mistakes import must_be, require, require_number, require_settings, structure
from trio_raft._records import record_size

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20

BATCH_HEADER_BYTES = 1 * KIBIBYTE
"""More than the header of a batch and the rounding to a sector come to."""

SEGMENT_HEADER_BYTES = 64 * KIBIBYTE
"""More than what a segment says of itself comes to, the member map included."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Durations in seconds.

    Relations that are checked: all positive and finite; 3/10 of ``heartbeat_timeout`` ≤ ``leader_lease_timeout`` ≤
    ``heartbeat_timeout`` ≤ ``election_timeout``; ``commit_timeout`` ≤ ``heartbeat_timeout``; ``disk_stall_timeout`` ≤
    ``request_timeout`` ≤ ``replication_stall_timeout``; ``retry_backoff`` ≤ ``retry_backoff_cap``.
    """

    heartbeat_timeout: float = 1.0
    """A follower that heard no leader for a time drawn from [t, 2t) asks for pre-votes; for t it refuses others' votes.
    Heartbeats go out every t / 10.  A leader that is known to be gone is not waited for (``failover_delay``)."""

    election_timeout: float = 1.0
    """A candidate that got no majority within a time drawn from [t, 2t) tries again."""

    leader_lease_timeout: float = 0.5
    """A leader that had no round trip with a majority for so long steps down; it takes three heartbeats at least.
    Two round trips of the network must fit into it, since an answer speaks for the moment of its question: with the
    defaults they may take up to 0.2 s each.  On slower networks raise this and ``heartbeat_timeout`` together."""

    commit_timeout: float = 0.05
    """When writes stop, followers learn the commit index after a time drawn from [t, 2t)."""

    disk_stall_timeout: float = 2.0
    """A log write in hand for so long makes a leader step down and keeps a follower from campaigning."""

    request_timeout: float = 5.0
    """The oldest AppendEntries in flight must be answered within this, or its connection is dropped."""

    replication_stall_timeout: float = 10.0
    """Uncommitted entries, and no append reply from a majority for so long, make a leader step down."""

    dial_timeout: float = 1.0
    """Connecting to a peer, the handshake included."""

    frame_timeout: float = 5.0
    """A frame that began to arrive must be complete within this; a send must be taken within this."""

    retry_backoff: float = 0.01
    """The first pause after a failure; it doubles with every further one."""

    retry_backoff_cap: float = 1.0
    """The longest such pause.  Heartbeats use at most half of ``heartbeat_timeout``."""

    close_timeout: float = 2.0
    """How long closing waits for a log write in hand before it abandons the thread."""

    loop_blocked_threshold: float = 0.05
    """One call that blocks the loop for longer raises the event ``LoopBlocked``."""

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            require_number(f"timeouts.{name}", value)
            if not 0 < value < float("inf"):
                raise ConfigurationError(f"timeouts.{name}", f"must be a positive number of seconds, not {value!r}")
        for smaller, larger in (
            ("leader_lease_timeout", "heartbeat_timeout"),
            ("heartbeat_timeout", "election_timeout"),
            ("commit_timeout", "heartbeat_timeout"),
            ("disk_stall_timeout", "request_timeout"),
            ("request_timeout", "replication_stall_timeout"),
            ("retry_backoff", "retry_backoff_cap"),
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ConfigurationError(
                    f"timeouts.{smaller}", f"{low} s must not exceed timeouts.{larger}, which is {high} s"
                )
        if 10 * self.leader_lease_timeout < 3 * self.heartbeat_timeout:
            # Heartbeats may be two intervals apart; a leader would keep deposing itself.
            problem = f"{self.leader_lease_timeout} s is less than three heartbeats of {self.heartbeat_interval:.3g} s"
            raise ConfigurationError("timeouts.leader_lease_timeout", problem)

    @property
    def heartbeat_interval(self) -> float:
        """Seconds; a leader's heartbeats are drawn from [interval, 2 × interval)."""
        return self.heartbeat_timeout / 10

    @property
    def failover_delay(self) -> float:
        """Seconds; the pause before an election whose leader is known to be gone is drawn from [0, t), or from more."""
        return self.heartbeat_timeout / 20


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds on everything that could otherwise grow.  Bytes unless the name says otherwise.

    Relations that are checked: all positive; a command with its record fits into a frame, and the largest batch into
    a segment.
    """

    max_command_bytes: int = 4 * MEBIBYTE
    """The largest encoded command."""

    max_batch_entries: int = 1024
    """Entries in one AppendEntries."""

    max_batch_bytes: int = 1 * MEBIBYTE
    """Bytes of entries in one AppendEntries; a single larger command travels alone."""

    max_frame_body: int = 8 * MEBIBYTE
    """The largest frame body accepted from a peer; compared in the handshake."""

    pipeline_requests: int = 4
    """AppendEntries in flight to one follower."""

    pipeline_bytes: int = 8 * MEBIBYTE
    """Bytes of entries in flight to one follower."""

    journal_batch_bytes: int = 4 * MEBIBYTE
    """The log takes no further item into one write and one sync beyond this."""

    pending_bytes: int = 64 * MEBIBYTE
    """Commands accepted but not yet applied; then ``submit_nowait`` raises WouldBlock and ``propose`` waits."""

    log_memory_bytes: int = 64 * MEBIBYTE
    """Recent entries kept in memory; older ones are read back from disk."""

    segment_bytes: int = 16 * MEBIBYTE
    """Size of a log file."""

    apply_batch_entries: int = 256
    """Entries applied before the loop gets its turn."""

    max_connections: int = 128
    """Inbound connections served at once; further ones are closed."""

    event_buffer: int = 256
    """Events kept for a slow reader of ``events()``, per reader."""

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            require_number(f"limits.{name}", value, whole=True)
            if value < 1:
                raise ConfigurationError(f"limits.{name}", f"must be at least 1, not {value!r}")
        if self.largest_batch > self.max_frame_body:
            raise ConfigurationError(
                "limits.max_frame_body",
                f"{self.max_frame_body} bytes do not hold the largest batch of {self.largest_batch} bytes",
            )
        needed = self.largest_journal_batch + SEGMENT_HEADER_BYTES
        if needed > self.segment_bytes:
            raise ConfigurationError(
                "limits.segment_bytes",
                f"{self.segment_bytes} bytes do not hold one largest write of {needed} bytes",
            )

    @property
    def largest_batch(self) -> int:
        """Bytes; the largest body of an AppendEntries that this node sends."""
        return max(self.max_batch_bytes, record_size(self.max_command_bytes))

    @property
    def largest_journal_batch(self) -> int:
        """Bytes; the most that one write to the log can come to, its last item included."""
        return self.journal_batch_bytes + self.max_frame_body + BATCH_HEADER_BYTES


@attrs.frozen(kw_only=True)
class Snapshots:
    """When a state that can be restored is written down, and how it travels.  Each of the triggers is off at 0."""

    threshold_entries: int = 100_000
    """Take one when so many entries were applied since the last."""

    threshold_bytes: int = 64 * MEBIBYTE
    """Take one when so many bytes of entries were applied since the last."""

    interval: float = 0.0
    """Seconds; take one that long after the last, if anything was applied since."""

    trailing_entries: int = 10_000
    """Entries that the log keeps behind its newest snapshot, so that a server which was away for a while, or has just
    installed a snapshot, is served from the log."""

    pinned_entries: int = 1_000_000
    """At most so many entries are kept for a follower to which a snapshot is being sent, however slow it is."""

    keep: int = 2
    """Newest snapshots that are kept on disk."""

    chunk_bytes: int = 1 * MEBIBYTE
    """Bytes of a snapshot in one message, as far as the peer's frames take them; four times as many are under way at a
    time.  Where a rate is set messages are smaller, so that writes do not wait for them."""

    bytes_per_second: int = 64 * MEBIBYTE
    """To each follower; 0 sends as fast as it takes them."""

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            require_number(f"snapshots.{name}", value, whole=name != "interval")
            lowest = 1 if name in ("keep", "chunk_bytes") else 0
            if not lowest <= value < float("inf"):
                raise ConfigurationError(f"snapshots.{name}", f"must be at least {lowest}, not {value!r}")


# What the converters accept by their signatures is for type checkers; they are called with anything.


def _by_server_id(members: Mapping[str, str]) -> Mapping[ServerId, str]:
    require("members", members, Mapping, 'a mapping of ids to addresses, for example {"n1": "127.0.0.1:7000"}')
    for member in members:
        require("members", member, str, "a mapping whose ids are strings")
    return {ServerId(member): address for member, address in members.items()}


def _as_path(directory: str | os.PathLike[str]) -> Path:
    require("data_directory", directory, (str, os.PathLike), "the path of a directory")
    path = os.fspath(directory)
    require("data_directory", path, str, "the path of a directory")
    if not path:
        raise ConfigurationError("data_directory", "must not be empty")
    return Path(path)


@attrs.frozen(kw_only=True)
class Config:
    """One node of a cluster.

    ``members`` names the servers that the cluster is first made of, this one included, with the address at which
    each can be reached.  It must name the same ids on every member.  Afterwards the log says who belongs to the
    cluster, and ``members`` only says where to find them: ids are identity, addresses may change.  A start at which
    the ids are others than the stored ones goes on with those, and the event ``MembersDiffer`` says so.
    """

    node_id: ServerId = attrs.field(converter=ServerId)
    cluster_id: str
    """Servers of different clusters refuse each other."""
    members: Mapping[ServerId, str] = attrs.field(converter=_by_server_id)
    """Id → ``host:port``, as the peers dial it."""
    data_directory: Path = attrs.field(converter=_as_path)
    """Created if missing; its parent must exist.  A relative path, in a TOML file too, starts at the current directory
    of the process, not at the file's."""
    listen: str = ""
    """``host:port`` to bind; this node's own entry in ``members`` if empty."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    snapshots: Snapshots = Snapshots()

    def __attrs_post_init__(self) -> None:
        for name, value in (("cluster_id", self.cluster_id), ("node_id", self.node_id)):
            require(name, value, str, "a string")
            if not value:
                raise ConfigurationError(name, "must not be empty")
        if self.node_id not in self.members:
            known = ", ".join(sorted(self.members)) or "none"
            raise ConfigurationError("members", f"must name this node, {self.node_id!r}; it names {known}")
        self._check_addresses()
        if self.listen != "":
            split_address("listen", self.listen)
        require_settings("timeouts", self.timeouts, Timeouts)
        require_settings("limits", self.limits, Limits)
        require_settings("snapshots", self.snapshots, Snapshots)

    def _check_addresses(self) -> None:
        owners: dict[tuple[str, int], ServerId] = {}
        for member, address in self.members.items():
            if not member:
                raise ConfigurationError("members", "an id must not be empty")
            host, port = split_address(f"members.{member}", address)
            if not port:
                raise ConfigurationError(
                    f"members.{member}", f"must have a port that its peers can dial, from 1 to 65535, not {address!r}"
                )
            owner = owners.setdefault((host.lower(), port), member)
            if owner != member:
                raise ConfigurationError(f"members.{member}", f"has the same address as {owner}, {address}")

    @property
    def listen_address(self) -> str:
        """``host:port`` to bind."""
        return self.listen or self.members[self.node_id]

    @classmethod
    def from_toml(cls, path: Path | str) -> "Config":
        """Read a node's configuration from a TOML file.

        Raises ConfigurationError, naming the file and the path of the key, for an unknown or a missing key, a wrong
        type or a wrong value, and for a file that cannot be read or is not TOML.
        """
        try:
            with open(path, "rb") as file:
                table = tomllib.load(file)
        except OSError as error:
            raise ConfigurationError("", f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError("", f"{path} is not valid TOML: {error}") from error
        try:
            return cls.from_mapping(table)
        except ConfigurationError as error:
            raise ConfigurationError(error.key, f"{error.problem} (in {path})") from error.__cause__

    @classmethod
    def from_mapping(cls, table: Mapping[str, object]) -> "Config":
        """Build a configuration from plain data, as ``from_toml`` does.

        Raises ConfigurationError: ``key`` is that of the first mistake, the text names every one that was found.
        """
        return structure(table, cls)


def split_address(key: str, address: str) -> tuple[str, int]:
    """``host:port`` → (host, port); IPv6 hosts stand in brackets.  Raises ConfigurationError naming ``key``."""
    expected = "host:port, for example 127.0.0.1:7000"
    require(key, address, str, expected)
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise must_be(key, expected, address)
    return host.removeprefix("[").removesuffix("]"), int(port)

"""trio_raft: Raft consensus for Trio programs, durable and linearizable by default.

The map.  Pure rules decide, one journal makes decisions durable, tasks in nurseries act::

    _opening         open_node, serve_node: the way in (_startup) and the way out
    _node            Node: the public calls
    _services        everything that runs inside a node, and the role loop follow → campaign → lead
    _leadership      lead: the followers' nursery, the watches, linearizable reads
    _replication     replicate_to: one follower's replicate, pipeline sender and decoder; _heartbeat beside it
    _sending         a snapshot for a follower that the log no longer reaches; _receiving is the other end
    _taking          snapshots of the own state; _snapshots knows them all, and cuts the log; _snapshot_work, in threads
    _election        follow, campaign; how long to wait is in _patience
    _leader_loss     is a leader gone whose connections ended?  Then nobody waits for him
    _bootstrap       the exchange before the very first election
    _apply           committed entries to the state machine, results to who waits; restores it first
    _peers           connections, both ends: dialling, and answering what comes in
    _server          one server from inside: ``transition``, and the answer to every RPC; with _first_start, _tickets
    _journal         the ordered queue to the disk: group commit, wait_durable
    _storage/        wal, the segmented write-ahead log; snapshots; both in memory; files, the operations they need
    _transport       channels over trio streams; _handshake; _tcp
    _rules/          the paper, synchronous and pure: state, log, configuration, progress, request_vote,
                     append_entries, install_snapshot, reads, bootstrap
    _codec, _values  bytes of messages, and of commands
    abc              what you may supply: StateMachine, LogStore, SnapshotStore, Transport
    _config, _events, _errors, _messages, _records, _environment

Beside it, for directories that no node is open on: ``recovery``, and ``__main__`` with the commands, both over _tools/.

Nothing imports upward.  Two routes to read along:

(a) One command.  ``Node.propose`` (``_node``) → ``Server.submit_nowait`` (``_server``) appends it to the log in memory,
queues it on the journal, wakes the followers' senders, and parks the caller on a ticket → route (b) for each follower,
``Journal.run`` beside it → ``append_entries.digest`` and ``Server._note_durable`` raise match indexes →
``Server.advance_commit`` → ``Applier`` (``_apply``) runs the state machine and resolves the ticket.

(b) One AppendEntries.  ``_Replication._send`` (``_replication``) wakes → ``append_entries.make`` (top of the file) →
``encode_frame`` (``_codec``) → the wire → the peer's ``PeerService`` (``_peers``) → ``Server.answer_append`` →
``append_entries.answer`` (middle) → ``Journal.supersede``, ``wait_durable`` → the reply, in order →
``_Replication._decode`` → ``append_entries.digest`` (bottom) → ``Server.advance_commit``.
"""

from trio_raft._config import Config, Limits, Snapshots, Timeouts
from trio_raft._errors import (
    ConfigurationError,
    DirectoryInUse,
    DirectoryMismatch,
    HandshakeRefused,
    IncarnationRefused,
    IncompatibleVersion,
    LeadershipLost,
    LogCorrupt,
    NoLeader,
    NotLeader,
    ProposalDropped,
    ProtocolError,
    RaftError,
    RaftInternalError,
    RecoveryRefused,
    Rejected,
    SnapshotCorrupt,
    SnapshotUnavailable,
    StateMachineError,
    StorageError,
    StorageFull,
)
from trio_raft._event_hub import EventReceiver
from trio_raft._events import (
    BadInput,
    BootstrapDone,
    BootstrapWaiting,
    ContactLost,
    ContactResumed,
    DirectoryReplaced,
    DiskFull,
    DiskHasRoom,
    DiskRecovered,
    DiskStalled,
    Event,
    LeaderChanged,
    LeaderGone,
    LoopBlocked,
    MembersDiffer,
    NodeStopped,
    PeerLostData,
    PeerRefused,
    ReplicationRestarted,
    RoleChanged,
    TornTailCut,
)
from trio_raft._messages import LogIndex, ServerId, Term
from trio_raft._node import Node
from trio_raft._opening import open_node, serve_node
from trio_raft._snapshot_events import (
    LogCompacted,
    SnapshotFailed,
    SnapshotIgnored,
    SnapshotInstalled,
    SnapshotReceiving,
    SnapshotSending,
    SnapshotTaken,
    StateRestored,
)
from trio_raft._statistics import PeerStatistics, Statistics
from trio_raft._storage.memory import MemoryLogStore
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft._storage.snapshots_memory import MemorySnapshotStore
from trio_raft._storage.wal import FileLogStore
from trio_raft._tcp import TCPTransport
from trio_raft._tickets import Ticket
from trio_raft.abc import Committed, LogStore, SavedState, SnapshotStore, StateMachine, StoredSnapshot, Transport

__all__ = [
    "BadInput",
    "BootstrapDone",
    "BootstrapWaiting",
    "Committed",
    "Config",
    "ConfigurationError",
    "ContactLost",
    "ContactResumed",
    "DirectoryInUse",
    "DirectoryMismatch",
    "DirectoryReplaced",
    "DiskFull",
    "DiskHasRoom",
    "DiskRecovered",
    "DiskStalled",
    "Event",
    "EventReceiver",
    "FileLogStore",
    "FileSnapshotStore",
    "HandshakeRefused",
    "IncarnationRefused",
    "IncompatibleVersion",
    "LeaderChanged",
    "LeaderGone",
    "LeadershipLost",
    "Limits",
    "LogCompacted",
    "LogCorrupt",
    "LogIndex",
    "LogStore",
    "LoopBlocked",
    "MembersDiffer",
    "MemoryLogStore",
    "MemorySnapshotStore",
    "NoLeader",
    "Node",
    "NodeStopped",
    "NotLeader",
    "PeerLostData",
    "PeerRefused",
    "PeerStatistics",
    "ProposalDropped",
    "ProtocolError",
    "RaftError",
    "RaftInternalError",
    "RecoveryRefused",
    "Rejected",
    "ReplicationRestarted",
    "RoleChanged",
    "SavedState",
    "ServerId",
    "SnapshotCorrupt",
    "SnapshotFailed",
    "SnapshotIgnored",
    "SnapshotInstalled",
    "SnapshotReceiving",
    "SnapshotSending",
    "SnapshotStore",
    "SnapshotTaken",
    "SnapshotUnavailable",
    "Snapshots",
    "StateMachine",
    "StateMachineError",
    "StateRestored",
    "Statistics",
    "StorageError",
    "StorageFull",
    "StoredSnapshot",
    "TCPTransport",
    "Term",
    "Ticket",
    "Timeouts",
    "TornTailCut",
    "Transport",
    "open_node",
    "serve_node",
]

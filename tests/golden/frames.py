"""One message of every type, and more where a field can be present or absent: what ``frames_<version>/`` holds encoded.

Each released version of the protocol keeps its directory for ever: a later version must still read these bytes.  A
message here is never changed; a new field gets a new message.
"""

from pathlib import Path

from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    Incarnation,
    InstallSnapshot,
    InstallSnapshotReply,
    LogIndex,
    Message,
    Rejection,
    RequestVote,
    RequestVoteReply,
    ServerId,
    SnapshotStatus,
    Term,
    Unsupported,
)
from trio_raft._records import EntryKind, make_entry

DIRECTORY = Path(__file__).parent / "frames_1"

REQUEST_ID = 0x0102030405060708

_HIGHEST = (1 << 63) - 1
_INCARNATIONS = {ServerId("n1"): Incarnation("a1"), ServerId("n2"): Incarnation("b2")}

MESSAGES: dict[str, Message] = {
    "hello": Hello(
        lowest_version=1,
        highest_version=1,
        cluster_id="demo",
        bootstrap_digest="d1",
        bootstrap_done=False,
        sender=ServerId("n1"),
        receiver=ServerId("n2"),
        incarnation=Incarnation("a1"),
        boot_id="boot",
        purpose="replication",
        max_frame_body=8 << 20,
        largest_batch=4 << 20,
        features=0,
        kinds=(1, 2, 3),
    ),
    "hello_reply": HelloReply(
        accepted=True,
        version=1,
        sender=ServerId("n2"),
        incarnation=Incarnation("b2"),
        boot_id="boot-2",
        bootstrap_done=True,
        max_frame_body=8 << 20,
        features=0,
        kinds=(1, 2, 3),
    ),
    "hello_reply_refused": HelloReply(accepted=False, refusal="n1 belongs to cluster “demo”", refusal_code="cluster"),
    "hello_reply_role": HelloReply(
        accepted=True,
        version=1,
        sender=ServerId("n2"),
        incarnation=Incarnation("b2"),
        boot_id="boot-2",
        bootstrap_done=True,
        max_frame_body=8 << 20,
        kinds=(1, 2, 3),
        role="leader",
    ),
    "request_vote": RequestVote(
        term=Term(7),
        candidate=ServerId("n1"),
        last_log_index=LogIndex(100),
        last_log_term=Term(6),
        pre_vote=True,
    ),
    "request_vote_reply": RequestVoteReply(
        term=Term(7), granted=False, pre_vote=True, requested_term=Term(8), reason="its log is shorter"
    ),
    "append_entries_probe": AppendEntries(
        term=Term(7),
        leader=ServerId("n1"),
        prev_log_index=LogIndex(_HIGHEST),
        prev_log_term=Term(6),
        leader_commit=LogIndex(90),
    ),
    "append_entries": AppendEntries(
        term=Term(7),
        leader=ServerId("n1"),
        prev_log_index=LogIndex(41),
        prev_log_term=Term(6),
        leader_commit=LogIndex(40),
        entries=[
            make_entry(index=LogIndex(42), term=Term(6), kind=EntryKind.COMMAND, data=b"set x"),
            make_entry(index=LogIndex(43), term=Term(7), kind=EntryKind.NO_OP, data=b""),
            make_entry(index=LogIndex(44), term=Term(7), kind=EntryKind.CONFIGURATION, data=b"\x00" * 8),
        ],
    ),
    "append_entries_reply": AppendEntriesReply(term=Term(7), success=True, match_index=LogIndex(44)),
    "append_entries_reply_mismatch": AppendEntriesReply(
        term=Term(7),
        success=False,
        rejection=Rejection.LOG_MISMATCH,
        conflict_index=LogIndex(30),
        conflict_term=Term(5),
    ),
    "heartbeat": Heartbeat(term=Term(7), leader=ServerId("n1"), round=12),
    "heartbeat_reply": HeartbeatReply(term=Term(7), round=12, ready=False, lease_promise=0.25),
    "bootstrap_statement": BootstrapStatement(incarnations=_INCARNATIONS, done=False),
    "bootstrap_reply": BootstrapReply(incarnations={}, done=True),
    "install_snapshot_question": InstallSnapshot(
        term=Term(7),
        leader=ServerId("n1"),
        transfer="00c0ffee",
        last_included_index=LogIndex(_HIGHEST),
        last_included_term=Term(6),
        digest="d1" * 32,
        total=5 << 30,
        offset=0,
    ),
    "install_snapshot": InstallSnapshot(
        term=Term(7),
        leader=ServerId("n1"),
        transfer="00c0ffee",
        last_included_index=LogIndex(40),
        last_included_term=Term(6),
        digest="d1" * 32,
        total=5 << 30,
        offset=4 << 30,
        data=b"a piece of the file",
    ),
    "install_snapshot_reply": InstallSnapshotReply(term=Term(7), status=SnapshotStatus.WANTED, offset=4 << 30),
    "install_snapshot_reply_finishing": InstallSnapshotReply(
        term=Term(7), status=SnapshotStatus.FINISHING, offset=5 << 30
    ),
    "install_snapshot_reply_installed": InstallSnapshotReply(
        term=Term(7), status=SnapshotStatus.INSTALLED, offset=5 << 30
    ),
    "install_snapshot_reply_refused": InstallSnapshotReply(
        term=Term(8), status=SnapshotStatus.REFUSED, reason="the sender's term is over"
    ),
    "unsupported": Unsupported(message_type=77),
}
"""File name → the message that it holds, with ``REQUEST_ID``."""


def golden(name: str) -> bytes:
    """The bytes of a file: hexadecimal, in lines of 32 bytes."""
    return bytes.fromhex((DIRECTORY / f"{name}.hex").read_text())

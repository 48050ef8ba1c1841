"""A small snapshot: what ``snapshot_1.hex`` holds encoded.

Each released version of the format keeps its file for ever: a later version must still read these bytes.
"""

from pathlib import Path

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft.abc import SnapshotConfiguration, SnapshotMeta, SnapshotPoint

META = SnapshotMeta(
    cluster_id="demo",
    point=SnapshotPoint(LogIndex((1 << 63) - 1), Term(7)),
    configuration=SnapshotConfiguration(
        index=LogIndex(42),
        voters=(ServerId("n1"), ServerId("n2")),
        learners=(ServerId("n3"),),
        incarnations={ServerId("n1"): Incarnation("a1"), ServerId("n2"): Incarnation("b2")},
    ),
    state_version=3,
)

STATE = b"the state of the machine"


def golden_snapshot() -> bytes:
    """The bytes of the file: hexadecimal, in lines of 32 bytes."""
    return bytes.fromhex((Path(__file__).parent / "snapshot_1.hex").read_text())

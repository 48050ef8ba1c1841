"""Reports as lines of text, for people.

House rule: reports in, lines out; a line says nothing that the report does not hold.
"""

from collections.abc import Iterator, Mapping

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry
from trio_raft._tools.log import LogReport, SegmentReport
from trio_raft._tools.plain import error_line
from trio_raft._tools.rebuild import LOSS, NewCluster
from trio_raft._tools.snapshots import SnapshotReport, SnapshotsReport
from trio_raft._tools.survey import Survey, Survivor
from trio_raft.abc import SnapshotPoint

TERMS_SHOWN = 10
"""The latest ones; JSON has all."""

WHAT_FOLLOWS = (
    "All members of the old cluster must stay down for ever: keep their directories, and never start them again.",
    "Growing the new cluster again needs changes of membership, which this version does not have yet.",
)


def point_text(point: SnapshotPoint) -> str:
    """A place in the log."""
    return f"{point.index} of term {point.term}"


def members_text(members: Mapping[ServerId, Incarnation]) -> str:
    """Ids with the incarnations of their directories."""
    return ", ".join(f"{member} ({incarnation})" for member, incarnation in sorted(members.items())) or "none known"


# ------------------------------------------------------------------------------------ the log


def log_lines(report: LogReport) -> Iterator[str]:
    """A log: what it amounts to, then its files."""
    owner = f"{report.node_id} in cluster {report.cluster_id}" if report.cluster_id else "nobody yet"
    yield f"log of {owner}: {report.directory}"
    yield f"  incarnation  {report.incarnation or 'none'}"
    yield f"  term         {report.term}, vote: {report.voted_for or 'none'}"
    yield f"  entries      {_entries_text(report)}"
    if report.terms:
        latest = ", ".join(f"{term} from {index}" for index, term in report.terms[-TERMS_SHOWN:])
        earlier = f"{len(report.terms) - TERMS_SHOWN} before; " if len(report.terms) > TERMS_SHOWN else ""
        yield f"  terms        {earlier}{latest}"
    confirmed = "all of them agreed on these" if report.members_confirmed else "not yet agreed on by all of them"
    yield f"  members      {members_text(report.members)}; {confirmed}"
    yield f"  snapshot     {point_text(report.snapshot) if report.snapshot else 'none that is whole'}"
    for error in report.damaged_snapshots:
        yield f"  DAMAGED, and not needed by the log: {error_line(error)}"
    for name in report.unread_snapshots:
        yield f"  {name}  older, and not read: log verify and snapshot verify do that"
    for segment in report.segments:
        yield f"  {segment.file}  {_segment_text(segment)}"
    for name in report.unused:
        yield f"  {name}  prepared, nothing in it yet"
    for marker in report.markers:
        kept = "what followed stayed" if marker.keep else "the whole log went"
        covered = f"a snapshot up to {marker.index} of term {marker.term}"
        yield f"  {covered} took the log's place at byte {marker.offset} of {marker.file}; {kept}"
    if torn := report.torn_tail:
        yield (
            f"  a last write was interrupted at byte {torn.offset} of {torn.file}: {torn.size} bytes, never "
            f"acknowledged; the next start cuts them"
        )
    if report.records_checked is not None:
        yield f"  {report.records_checked} records checked, all whole"


def _entries_text(report: LogReport) -> str:
    begins = f"the log begins above {point_text(report.base)}" if report.base.index else "nothing was ever cut"
    if report.superseded:
        return f"none that count: the snapshot takes the log's place; {begins}"
    if report.last.index == report.base.index:
        return f"none; {begins}"
    return f"{report.base.index + 1} to {report.last.index}, the last of term {report.last.term}; {begins}"


def _segment_text(segment: SegmentReport) -> str:
    entries = "no entry that counts"
    if segment.first_index is not None:
        entries = f"entries {segment.first_index} to {segment.last_index}"
    return f"{segment.used} of {segment.size} bytes, {segment.batches} batches, {entries}"


def entry_line(entry: Entry) -> str:
    """One entry."""
    return f"  {entry.index:>12}  term {entry.term:<6} {entry.kind.name.lower():<14} {len(entry.data)} bytes"


# ------------------------------------------------------------------------------------ snapshots


def snapshot_lines(report: SnapshotReport) -> Iterator[str]:
    """One snapshot."""
    checked = f"whole, SHA-256 {report.digest}" if report.digest else "only its header was read"
    yield f"snapshot up to {report.index} of term {report.term}: {report.path}"
    yield f"  cluster      {report.cluster_id}"
    yield f"  size         {report.size} bytes; {checked}"
    yield f"  state        version {report.state_version}"
    learners = f", learners: {', '.join(report.learners)}" if report.learners else ""
    yield f"  members      {members_text(report.incarnations)}; voters: {', '.join(report.voters)}{learners}"
    yield f"               as of index {report.configuration_index}"


def snapshots_lines(report: SnapshotsReport) -> Iterator[str]:
    """The snapshots of a directory."""
    if report.in_use:
        yield f"{report.directory} is in use by a node: what follows may be out of date already"
    if not report.snapshots and not report.damaged:
        yield f"{report.directory} holds no snapshot"
    for snapshot in report.snapshots:
        yield from snapshot_lines(snapshot)
    for error in report.damaged:
        yield f"DAMAGED: {error_line(error)}"
    for name in report.unfinished:
        yield f"{name} was never finished; a node removes it when it starts"


# ------------------------------------------------------------------------------------ recovery


def survey_lines(survey: Survey) -> Iterator[str]:
    """Each directory, and what it holds."""
    for survivor in survey.survivors:
        yield str(survivor.directory)
        yield from (f"  {line}" for line in _survivor_lines(survivor))


def _survivor_lines(survivor: Survivor) -> Iterator[str]:
    if survivor.cluster_id:
        vote = f"vote: {survivor.voted_for or 'none'}"
        yield (
            f"{survivor.node_id} in cluster {survivor.cluster_id}, incarnation {survivor.incarnation}; "
            f"term {survivor.term}, {vote}"
        )
    if survivor.damage:
        yield f"DAMAGED: {error_line(survivor.damage)}"
    else:
        yield f"last entry {point_text(survivor.last)}; the log begins above {survivor.base.index}"
    if snapshot := survivor.snapshot:
        yield f"newest whole snapshot up to {snapshot.index} of term {snapshot.term}, {snapshot.size} bytes"
    for error in survivor.damaged_snapshots:
        if error is not survivor.damage:
            yield f"DAMAGED: {error_line(error)}"


def proposal_lines(best: Survivor) -> Iterator[str]:
    """Which one, and what it would mean."""
    yield f"best survivor: {best.directory}, last entry {point_text(best.last)}"
    yield "Nothing was changed. A new cluster of one node is made from it with"
    yield "  --to NEWDIR --node-id ID --cluster-id NEW --accept-data-loss"
    yield f"What that accepts: {LOSS}."
    yield from WHAT_FOLLOWS


def created_lines(created: NewCluster) -> Iterator[str]:
    """The new directory, and how to go on."""
    yield f"made {created.directory}: {created.node_id} in the new cluster {created.cluster_id}"
    yield f"  incarnation  {created.incarnation}"
    yield f"  term         {created.term}"
    yield f"  last entry   {point_text(created.last)}"
    if created.snapshot:
        yield f"  snapshot     up to {created.snapshot.index} of term {created.snapshot.term}"
    place = "" if created.address else "; HOST:PORT is where it is to be reached"
    yield f"Start {created.node_id} on it with these settings{place}:"
    yield f'  node_id = "{created.node_id}"'
    yield f'  cluster_id = "{created.cluster_id}"'
    yield f'  data_directory = "{created.directory}"'
    yield f'  members = {{ {created.node_id} = "{created.address or "HOST:PORT"}" }}'
    yield from WHAT_FOLLOWS

"""The handshake: two servers make sure that they mean each other before Raft sees a message.

The side that dialled says Hello; the side that listened judges it and answers HelloReply, accepted or refused; the
dialler judges the reply in turn.  What is compared, in this order, with the ``refusal_code`` of each:

``version``
    The ranges of protocol versions must overlap.
``cluster``
    Both belong to the same cluster.
``receiver``
    The listener is whom the dialler means (addresses get reused), and is not the dialler itself.
``members``
    Only while one side has not finished bootstrap: both were configured with the same member ids.  Afterwards the
    log says who belongs to the cluster.
``incarnation``
    After bootstrap: the id comes with the data directory by which it is known.  An emptied directory is another one;
    over a control connection its server may still ask, in its first start, who it is to the others.
``purpose``
    The listener serves connections of this kind.
``limits``
    Neither side may send what the other does not take.

House rule: no I/O; ``_transport.py`` carries the messages.
"""

import hashlib
from collections.abc import Callable, Iterable

import attrs
import msgpack

from trio_raft._codec import PROTOCOL_VERSION
from trio_raft._config import Config
from trio_raft._errors import HandshakeRefused, ProtocolError
from trio_raft._messages import Hello, HelloReply, Incarnation, Purpose, ServerId
from trio_raft._records import ENTRY_KINDS

LOWEST_VERSION = 1
"""The oldest protocol version that this server still speaks; the newest is ``PROTOCOL_VERSION``."""

_KINDS = tuple(sorted(int(kind) for kind in ENTRY_KINDS))


@attrs.frozen(kw_only=True)
class Handshake:
    """This server's side of every handshake."""

    config: Config
    incarnation: Incarnation
    boot_id: str
    bootstrap_done: Callable[[], bool]
    """Asked at each handshake, since bootstrap ends while connections come and go."""
    known_incarnation: Callable[[ServerId], Incarnation | None]
    """By which incarnation the cluster knows a server; None if it does not know the server."""
    role: Callable[[], str] = lambda: ""
    """What this server is at the moment, for a peer that lost its connection with a leader."""
    purposes: frozenset[Purpose] = frozenset(Purpose)
    """What this server serves."""

    def hello(self, *, receiver: ServerId, purpose: Purpose) -> Hello:
        """The dialler's first message."""
        limits = self.config.limits
        return Hello(
            lowest_version=LOWEST_VERSION,
            highest_version=PROTOCOL_VERSION,
            cluster_id=self.config.cluster_id,
            bootstrap_digest=bootstrap_digest(self.config.members),
            bootstrap_done=self.bootstrap_done(),
            sender=self.config.node_id,
            receiver=receiver,
            incarnation=self.incarnation,
            boot_id=self.boot_id,
            purpose=purpose.value,
            max_frame_body=limits.max_frame_body,
            largest_batch=limits.largest_batch,
            kinds=_KINDS,
        )

    def judge(self, hello: Hello) -> HelloReply:
        """The listener's answer: accepted, or refused with a code and both sides' values."""
        refusal = self._objection(hello)
        code, reason = refusal or ("", "")
        return HelloReply(
            accepted=refusal is None,
            refusal=reason,
            refusal_code=code,
            version=PROTOCOL_VERSION if code == "version" else min(PROTOCOL_VERSION, hello.highest_version),
            sender=self.config.node_id,
            incarnation=self.incarnation,
            boot_id=self.boot_id,
            bootstrap_done=self.bootstrap_done(),
            max_frame_body=self.config.limits.max_frame_body,
            kinds=_KINDS,
            role=self.role(),
        )

    def judge_reply(self, reply: HelloReply, *, receiver: ServerId) -> None:
        """The dialler's verdict.

        Raises HandshakeRefused if either side refuses the other, and ProtocolError for a reply that contradicts the
        Hello it answers.
        """
        if not reply.accepted:
            reason = reply.refusal
            if reply.refusal_code == "members":
                reason += f"; {self.config.node_id} was configured with {_names(self.config.members)}"
            raise HandshakeRefused(receiver, reason, code=reply.refusal_code)
        if not LOWEST_VERSION <= reply.version <= PROTOCOL_VERSION:
            raise ProtocolError(receiver, f"it chose protocol version {reply.version}, which was not offered")
        if reply.sender != receiver:
            raise HandshakeRefused(receiver, f"{receiver} was dialled, {reply.sender} answered", code="receiver")
        for objection in (
            self._incarnation_objection(reply.sender, reply.incarnation),
            self._limits_objection(reply.sender, takes=reply.max_frame_body, sends=0),
        ):
            if objection:
                code, reason = objection
                raise HandshakeRefused(receiver, reason, code=code)

    def _objection(self, hello: Hello) -> tuple[str, str] | None:
        """The first thing that does not fit, as (code, reason)."""
        config = self.config
        if hello.highest_version < LOWEST_VERSION or hello.lowest_version > PROTOCOL_VERSION:
            return "version", (
                f"{hello.sender} speaks protocol versions {hello.lowest_version} to {hello.highest_version}, "
                f"{config.node_id} {LOWEST_VERSION} to {PROTOCOL_VERSION}"
            )
        if hello.cluster_id != config.cluster_id:
            return "cluster", (
                f"{hello.sender} belongs to cluster {hello.cluster_id!r}, {config.node_id} to {config.cluster_id!r}"
            )
        if hello.receiver != config.node_id:
            return "receiver", f"{hello.sender} means to talk to {hello.receiver!r}, this is {config.node_id!r}"
        if hello.sender == config.node_id:
            return "receiver", f"{hello.sender} dialled a server of its own id"
        return (
            self._members_objection(hello)
            or self._newcomer_objection(hello)
            or self._purpose_objection(hello)
            or self._limits_objection(hello.sender, takes=hello.max_frame_body, sends=hello.largest_batch)
        )

    def _members_objection(self, hello: Hello) -> tuple[str, str] | None:
        both_done = hello.bootstrap_done and self.bootstrap_done()
        if both_done or hello.bootstrap_digest == bootstrap_digest(self.config.members):
            return None
        return "members", (
            f"{hello.sender} was configured with other members than {self.config.node_id}, which has "
            f"{_names(self.config.members)}"
        )

    def _newcomer_objection(self, hello: Hello) -> tuple[str, str] | None:
        """Judge the incarnation, except where a server in its first start only wants to learn who it is to others.

        It neither votes nor acknowledges yet, and what it hears tells it that its directory was exchanged.
        """
        if hello.purpose == Purpose.CONTROL.value and not hello.bootstrap_done:
            return None
        return self._incarnation_objection(hello.sender, hello.incarnation)

    def _incarnation_objection(self, peer: ServerId, incarnation: Incarnation) -> tuple[str, str] | None:
        known = self.known_incarnation(peer) if self.bootstrap_done() else None
        if known is None or known == incarnation:
            return None
        return "incarnation", (
            f"{peer} is known by incarnation {known} and came with {incarnation}: its data directory was emptied or "
            f"exchanged"
        )

    def _purpose_objection(self, hello: Hello) -> tuple[str, str] | None:
        served = sorted(purpose.value for purpose in self.purposes)
        if hello.purpose in served:
            return None
        return "purpose", f"{self.config.node_id} serves {', '.join(served)}, not {hello.purpose!r}"

    def _limits_objection(self, peer: ServerId, *, takes: int, sends: int) -> tuple[str, str] | None:
        limits = self.config.limits
        if sends > limits.max_frame_body:
            return "limits", (
                f"{peer} may send batches of {sends} bytes, {self.config.node_id} takes frames of "
                f"{limits.max_frame_body}: raise its limits.max_frame_body"
            )
        if limits.largest_batch > takes:
            return "limits", (
                f"{self.config.node_id} may send batches of {limits.largest_batch} bytes, {peer} takes frames of "
                f"{takes}: raise its limits.max_frame_body"
            )
        return None


def bootstrap_digest(members: Iterable[ServerId]) -> str:
    """Hexadecimal; the same for the same set of ids, in whatever order they were written down."""
    return hashlib.sha256(msgpack.packb(sorted(members))).hexdigest()


def _names(members: Iterable[ServerId]) -> str:
    return ", ".join(sorted(members))

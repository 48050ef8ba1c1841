"""The first configuration: which incarnation each member of the initial cluster has.

A server is (id, incarnation); the incarnation is drawn when its data directory is created.  Before anybody votes, all
members must durably agree on the whole map id → incarnation.  Otherwise a server whose directory was emptied between
two elections could vote twice in one term, and nobody would notice.

How it is settled.  Members exchange statements of the map that they *durably* hold::

    collecting   learns the incarnation of each peer from its handshake; a peer that shows another one than recorded
                 (its directory was emptied during the first start) replaces it, and confirmations start over
    done         all members have stated durably the same complete map, or a done member showed its map, which wins
    replaced     a done member's map names another incarnation for *this* server: its directory is not the one that
                 the cluster knows, so it neither votes nor acknowledges

Why it is safe: a done member never changes its map, and nobody is done without a statement of every member; so two
members can not be done with different maps.  A statement counts only while its sender's process is the newest of
that member that has shaken hands: one that is still under way when its sender's directory is emptied is void.

House rule: pure; durability is the caller's, who makes a changed map durable before it states it.
"""

from collections.abc import Mapping

import attrs

from trio_raft._errors import NO_INCARNATION
from trio_raft._messages import Incarnation, ServerId


@attrs.define
class Bootstrap:
    """One server's view of the first configuration."""

    own_id: ServerId
    own_incarnation: Incarnation
    members: frozenset[ServerId]
    incarnations: dict[ServerId, Incarnation] = attrs.field(factory=dict[ServerId, Incarnation])
    done: bool = False
    confirmed: set[ServerId] = attrs.field(factory=set[ServerId])
    """Peers that stated durably the map that is recorded here."""
    replaced_for: Incarnation | None = None
    """The incarnation by which the cluster knows this id, if it is not this directory's; NO_INCARNATION if it knows
    none: this server is no member."""

    def __attrs_post_init__(self) -> None:
        self.incarnations.setdefault(self.own_id, self.own_incarnation)

    def learn(
        self,
        peer: ServerId,
        incarnation: Incarnation,
        *,
        stated: Mapping[ServerId, Incarnation],
        stated_done: bool,
    ) -> bool:
        """Take a peer's statement in; True if the map or ``done`` changed and must be made durable."""
        if self.done or peer not in self.members:
            return False
        if stated_done:
            return self._adopt(stated)
        changed = self.incarnations.get(peer) != incarnation
        if changed:
            self.incarnations[peer] = incarnation
            self.confirmed.clear()
        if dict(stated) == self.incarnations:
            self.confirmed.add(peer)
        else:
            self.confirmed.discard(peer)
        return changed

    def _adopt(self, settled: Mapping[ServerId, Incarnation]) -> bool:
        known = settled.get(self.own_id)
        if known != self.own_incarnation:
            self.replaced_for = known or Incarnation(NO_INCARNATION)
            return False
        self.incarnations = dict(settled)
        self.replaced_for = None
        self.done = True
        return True

    def finish(self) -> bool:
        """The recorded map is durable here: done if every peer has stated it too.  True if that is new."""
        if self.done or self.missing:
            return False
        self.done = True
        return True

    @property
    def missing(self) -> tuple[ServerId, ...]:
        """Members that have not confirmed the recorded map, sorted; empty once done."""
        if self.done:
            return ()
        return tuple(sorted(self.members - self.confirmed - {self.own_id}))

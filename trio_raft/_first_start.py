"""The first configuration as one server keeps it: the rules of ``_rules/bootstrap.py``, with their durability.

A changed map is queued on the journal; ``position`` says when it may be stated to others.  The waiting and the exchange
of statements are in ``_bootstrap.py``.
"""

from collections.abc import Mapping

import trio

from trio_raft._event_hub import EventHub
from trio_raft._events import DirectoryReplaced
from trio_raft._journal import Journal
from trio_raft._messages import BootstrapReply, BootstrapStatement, Incarnation, ServerId
from trio_raft._rules.bootstrap import Bootstrap


class FirstStart:
    """What this server knows of the members' incarnations, and how far that is settled."""

    def __init__(self, bootstrap: Bootstrap, *, journal: Journal, events: EventHub) -> None:
        self._bootstrap = bootstrap
        self._journal = journal
        self._events = events
        self.position = 0
        """Journal position of the member map in force."""
        self.problems: dict[ServerId, str] = {}
        """What the exchange with a member fails with, for a person."""
        self._processes: dict[ServerId, str] = {}
        """The boot id of each member's process that shook hands last."""
        self.lot = trio.lowlevel.ParkingLot()
        """Whoever waits for the member map to change, or for the news that this directory was exchanged."""

    @property
    def done(self) -> bool:
        """Is the map settled for good, though perhaps not durable yet?"""
        return self._bootstrap.done

    @property
    def missing(self) -> tuple[ServerId, ...]:
        """Members that have not confirmed the map, sorted; empty once it is settled."""
        return self._bootstrap.missing

    @property
    def members(self) -> tuple[ServerId, ...]:
        """The members of the first configuration, sorted."""
        return tuple(sorted(self._bootstrap.members))

    @property
    def own_incarnation(self) -> Incarnation:
        """Of this server's data directory."""
        return self._bootstrap.own_incarnation

    @property
    def replaced_for(self) -> Incarnation | None:
        """The incarnation by which the cluster knows this id, if it is not this directory's."""
        return self._bootstrap.replaced_for

    def known_incarnation(self, server: ServerId) -> Incarnation | None:
        """By which incarnation a server is known."""
        return self._bootstrap.incarnations.get(server)

    def statement(self) -> BootstrapStatement:
        """The map in force; only to be sent once ``position`` is durable."""
        return BootstrapStatement(dict(self._bootstrap.incarnations), self._bootstrap.done)

    def meet(self, peer: ServerId, boot_id: str) -> None:
        """A process of this member has shaken hands: what an earlier one said is void, even if it is still to arrive.

        A statement may be under way when its sender's directory is emptied; were it believed after the successor was
        met, two members could be done with different maps.
        """
        if not self.done and peer in self._bootstrap.members:
            self._processes[peer] = boot_id

    def is_newest(self, peer: ServerId, boot_id: str) -> bool:
        """Is this the process of the peer that shook hands last?  Only what it says counts."""
        return self.done or self._processes.get(peer) == boot_id

    @trio.lowlevel.enable_ki_protection
    def answer(
        self, peer: ServerId, incarnation: Incarnation, boot_id: str, statement: BootstrapStatement
    ) -> tuple[BootstrapReply, int]:
        """The own statement in return, and the journal position that it must wait for."""
        self.learn(peer, incarnation, boot_id, stated=statement.incarnations, stated_done=statement.done)
        own = self.statement()
        return BootstrapReply(own.incarnations, own.done), self.position

    @trio.lowlevel.enable_ki_protection
    def learn(
        self,
        peer: ServerId,
        incarnation: Incarnation,
        boot_id: str,
        *,
        stated: Mapping[ServerId, Incarnation],
        stated_done: bool,
    ) -> None:
        """Take a peer's statement in, and make durable what it changed."""
        if not self.is_newest(peer, boot_id):
            return
        replaced_before = self._bootstrap.replaced_for
        if self._bootstrap.learn(peer, incarnation, stated=stated, stated_done=stated_done):
            self._save()
        elif self._journal.durable_position >= self.position:
            self.finish()
        replaced_for = self._bootstrap.replaced_for
        if replaced_for is not None and replaced_for != replaced_before:
            self._events.publish(DirectoryReplaced(replaced_for, self._bootstrap.own_incarnation))
            self.lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def finish(self) -> None:
        """The own map is durable: settle it if every member has stated it."""
        if self._bootstrap.finish():
            self._save()

    def _save(self) -> None:
        self.position = self._journal.save_bootstrap(self._bootstrap.incarnations, done=self._bootstrap.done)
        self.lot.unpark_all()

    def trouble(self) -> str:
        """For a person: what the exchange with the missing members fails with."""
        return "; ".join(f"{peer}: {problem}" for peer, problem in sorted(self.problems.items()))

"""Linearizable reads without writing to the log: numbered rounds of heartbeats (dissertation 6.4).

A leader may have been deposed without knowing it, and would then answer from the past.  So before a read is
answered, a majority must have acknowledged the leader *after the read arrived*; an older acknowledgement
proves nothing about what was committed in between.  Rounds make "after" a matter of numbers::

    read A arrives -> needs round 7 --.
    read B arrives -> needs round 7 --+-- heartbeats leave with 7 --> ... a majority echoes 7: A and B may go
    read C arrives -> needs round 8 ----- 7 has left already, so C opens 8 for the next heartbeats

Any number of reads share a round; a round closes when its first heartbeat leaves.  The commit index at which
a read is answered is noted when it arrives; a majority for its round says that this index was the newest.

That index means something only once the leader has committed an entry of its own term: before that it may lag
behind what its predecessor had committed (paper section 8).  Whoever asks for a round sees to that first (Q3).

House rule: acknowledgements are per server and only rise, so late and repeated ones are harmless.
"""

from trio_raft._messages import ServerId
from trio_raft._rules.configuration import Configuration


class BadRound(ValueError):
    """A peer acknowledges a round that was never opened: counting it would confirm reads yet to come."""


class ReadRounds:
    """The rounds of one leadership."""

    __slots__ = ("_acknowledged", "_left", "current")

    def __init__(self) -> None:
        self.current = 0
        """What the next heartbeat carries; 0 until a read asks."""
        self._left = True
        """Has a heartbeat with ``current`` gone out?  Round 0 always has: it confirms nothing."""
        self._acknowledged: dict[ServerId, int] = {}

    def join(self) -> int:
        """A read arrives: the round that it needs, a new one if the current one has left (Q4)."""
        if self._left:
            self.current += 1
            self._left = False
        return self.current

    def sent(self) -> int:
        """A heartbeat leaves now: the round that it carries, which takes no further reads."""
        self._left = True
        return self.current

    def acknowledge(self, server: ServerId, round_number: int) -> None:
        """A server echoed this round.  Raises BadRound for one that was never opened."""
        if round_number > self.current:
            raise BadRound(f"{server} acknowledged round {round_number}, but the newest is {self.current}")
        if round_number > self._acknowledged.get(server, 0):
            self._acknowledged[server] = round_number

    def confirmed(self, configuration: Configuration, own: ServerId) -> int:
        """The highest round that a quorum acknowledged; the leader itself acknowledges every round."""
        return configuration.quorum_value({**self._acknowledged, own: self.current}) or 0

    def outstanding(self, server: ServerId) -> bool:
        """Has it not acknowledged the current round yet, so that it should be asked at once?"""
        return self._acknowledged.get(server, 0) < self.current

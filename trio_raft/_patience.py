"""How long one server waits for a leader, and how long it stands by the one that it heard (paper 5.2, E9).

Three things follow from when a leader was heard last:

* the *election timer*: silence until ``election_deadline`` makes a follower a candidate;
* *loyalty* (stickiness): for ``heartbeat_timeout`` no other candidate is supported;
* *haste*: once the leader is known to be gone (``_leader_loss.py``) there is nobody to be loyal to, and nothing to wait
  for but the others, who have noticed the same.  So the timer is short.

Those in haste must differ by more than it takes to ask for a vote, or they split the votes.  How long that takes the
redial has shown, and the first pause is drawn from a few times as much, or from ``failover_delay`` if that is more;
after each split vote the next one is drawn from twice as much.  Whoever learns that another is a term ahead leaves him
an interval to win.

Haste ends when a leader is heard, and after ``heartbeat_timeout`` in any case: a cluster that has not agreed on a
leader by then has some other trouble, which elections in quick succession would only make worse.

House rule: whoever hears, loses or supports somebody says so here; nobody sets the timer by hand.
"""

import math

from trio_raft._config import Timeouts
from trio_raft._environment import Environment, draw_below, draw_interval

ROUND_TRIPS = 4
"""To connect, to shake hands, to ask for a pre-vote; then all that for a vote, which counts when it arrives."""


class Patience:
    """Of one server."""

    def __init__(self, environment: Environment, timeouts: Timeouts) -> None:
        self._environment = environment
        self._timeouts = timeouts
        self.last_contact = -math.inf
        """When a leader was heard last; never, as long as nobody was heard since this server led itself."""
        self.gone = ""
        """For a person: why the leader that was heard last is known to be gone; empty if it is not."""
        self.election_deadline = 0.0
        """When a follower that still hears nobody becomes a candidate.  ``follow`` looks at it; nobody is woken."""
        self._haste_ends = -math.inf
        self._spread = timeouts.failover_delay
        """Seconds from which the pauses of this haste are drawn."""
        self.restart()

    def heard(self) -> None:
        """A leader was heard.  With each of its messages, so there is little to it."""
        self.last_contact = now = self._environment.clock.now()
        self.gone = ""
        self.election_deadline = now + draw_interval(self._environment, self._timeouts.heartbeat_timeout)

    def lost(self, reason: str, *, took: float) -> None:
        """The leader that was heard last leads no more, for certain; to learn it took so many seconds."""
        self.gone = reason
        self._spread = self._timeouts.failover_delay
        self._widen(ROUND_TRIPS * took)
        self._haste_ends = self._now() + self._timeouts.heartbeat_timeout
        self.restart()

    def supported(self) -> None:
        """Somebody got this server's vote, and gets the time to win, in haste or not."""
        self.election_deadline = self._now() + draw_interval(self._environment, self._timeouts.heartbeat_timeout)

    def overtaken(self) -> None:
        """Another candidate is a term ahead of this one, and may be about to win."""
        if self.in_haste():
            self.election_deadline = self._now() + draw_interval(self._environment, self._timeouts.heartbeat_interval)
        else:
            self.supported()

    def split(self) -> None:
        """Candidates in haste took each other's votes."""
        self._widen(2 * self._spread)

    def won(self) -> None:
        """This server leads: it has nobody to look for any more, nor to stand by if it steps down."""
        self.gone = ""
        self.last_contact = -math.inf

    def restart(self) -> None:
        """Draw anew how long to wait."""
        if self.in_haste():
            self.election_deadline = self._now() + self.draw_pause()
        else:
            self.supported()

    def draw_pause(self) -> float:
        """Seconds between two steps made in haste: drawn, so that who lost the same leader do not act in step."""
        return draw_below(self._environment, self._spread)

    def in_haste(self) -> bool:
        """Is the leader known to be gone, and that not for long?"""
        return bool(self.gone) and self._now() < self._haste_ends

    def is_loyal(self) -> bool:
        """Was a leader heard within ``heartbeat_timeout`` who may still lead?"""
        return not self.gone and self._now() - self.last_contact < self._timeouts.heartbeat_timeout

    def _widen(self, spread: float) -> None:
        self._spread = min(max(self._spread, spread), self._timeouts.heartbeat_timeout)

    def _now(self) -> float:
        return self._environment.clock.now()

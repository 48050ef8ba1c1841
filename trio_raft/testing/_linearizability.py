"""Is there an order of the operations that explains every result, and keeps "before" where clients could see it?

That is linearizability (Herlihy & Wing 1990).  The search is that of Wing & Gong ("Testing and verifying concurrent
objects", 1993): take up any operation that no other one must precede, ask the model for the state after it, and go on
from there; with Lowe's improvements ("Testing for linearizability", 2017): remember the configurations reached, and
judge each key by itself.  The problem is NP-complete, so a budget ends it, and then the verdict is "unknown".

A *configuration* is what of the past matters for the future: which operations have been taken up, and the state.
Known operations are numbered in the order in which they began.  Nearly all below some number have been taken up, and
nearly none above; so the set is stored as that number, ``low``, and a small bitset from there on.

Unknown outcomes are what makes such searches explode: each may take effect at any later place, or nowhere.  Five
rules, sound for every model, keep the search small:

1. An operation of unknown outcome is never owed: the search ends when all known operations have been taken up.
2. *Fewer used is better.*  With the same known operations done and the same state, whoever has used a subset of the
   unknown ones can do all that the other can.  So a configuration is dropped if a better one was reached before; and
   an unknown operation that would not change the state is never taken up.
3. *The twin rule.*  Of unknown operations that ask for the same, the one that began first stands for all: it is
   available wherever the others are.
4. A known read that may be next, and fits, is next without an alternative: any order that works still works with the
   read moved to its front.  The model must say what only reads; that an action leaves one state alone proves nothing,
   as in another place the rest may need its effect.
5. What the model says that it observed later (``Model.observed``) rules out states from which no way leads there.

Best first: the search goes on where most operations have been taken up, and each unknown one counts against that.
So it retreats a little before it believes in a lost write, and a little further before it believes in two, rather than
trying all orders of the lost writes at the first obstacle.  This is why configurations stand in a heap, where Wing &
Gong walk one linked list forward and back: a walk can only retreat from its end.  There is no recursion.

Where the budget is spent is the same on each machine if only ``max_steps`` bounds it: set ``seconds`` to ``math.inf``.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Literal

import attrs

from trio_raft._environment import TrioClock
from trio_raft.testing._history import UNKNOWN, Operation, shortened
from trio_raft.testing._models import Model

_STOPWATCH = TrioClock().stopwatch

# How many known operations an unknown one must explain to be worth a try.  It decides speed alone: with 1, lists of
# which the model does not tell what was observed were not decided at all; from 8 to 16 hardly anything changes.
_UNKNOWN_COSTS = 8

_LINES_SHOWN = 12


@attrs.frozen
class Verdict:
    """What ``check_linearizable`` found.  It is true only if the history is linearizable: unknown is no pass."""

    outcome: Literal["linearizable", "not_linearizable", "unknown"]
    steps: int
    """Configurations reached, over all keys: what the check cost."""
    explanation: str
    """For the reader: where it failed, or what to do about an unknown outcome."""
    key: Hashable = None
    """The first key that is not linearizable, or could not be decided; as the model's ``key`` gave it."""
    longest: tuple[Operation, ...] = ()
    """Unless linearizable: an order that gets as far as any, in which every result is explained."""
    blocked: tuple[Operation, ...] = ()
    """Unless linearizable: the operations that had to be considered after ``longest``, none of which led on."""

    def __bool__(self) -> bool:
        return self.outcome == "linearizable"


def check_linearizable(
    history: Iterable[Operation],
    model: Model[Any, Any],
    *,
    seconds: float = 30.0,
    max_steps: int = 500_000,
    stopwatch: Callable[[], float] = _STOPWATCH,
) -> Verdict:
    """Decide whether the operations could have happened one at a time, each between its begin and its return.

    ``history``: a ``History``, or some operations of one.  ``seconds``, measured by ``stopwatch``, and ``max_steps``
    (some 500 bytes of memory each, and a state) bound the work on all keys together; every key gets its share of what
    is left.  One failing key decides against the history, whatever the others' verdicts; otherwise one undecided key
    leaves it unknown.

    ValueError: a bound is not positive.  TypeError: ``model`` is no instance of ``Model``.  What the model raises
    passes through, with a note of what it was asked.

    Source: Wing & Gong 1993; Lowe 2017.  Runs to its end without a checkpoint, and blocks the loop meanwhile.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model must be an instance of Model, not {model!r}")
    if not seconds > 0 or max_steps < 1:
        raise ValueError(f"seconds and max_steps must be positive, not {seconds} and {max_steps}")
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(model.key(operation), []).append(operation)
    end = stopwatch() + seconds
    steps = 0
    undecided: Verdict | None = None
    for done, (key, operations) in enumerate(by_key.items()):
        keys_left = len(by_key) - done
        now = stopwatch()
        try:
            search = _Search(operations, model)
            outcome = search.run(
                stopwatch, deadline=now + (end - now) / keys_left, max_steps=(max_steps - steps) // keys_left
            )
        except Exception as error:
            error.add_note(f"{type(model).__name__} was judging the operations on key {key!r}")
            raise
        steps += search.steps
        if outcome == "not_linearizable":
            return _no_pass(key, outcome, search, steps=steps)
        if outcome == "unknown" and undecided is None:
            undecided = _no_pass(key, outcome, search, steps=steps)
    if undecided is not None:
        return attrs.evolve(undecided, steps=steps)
    return Verdict("linearizable", steps, f"linearizable: {len(by_key)} keys, {steps} steps")


@attrs.define(eq=False)
class _Configuration:
    """A place in the search; never changed."""

    low: int
    """Known operations below this number have all been taken up."""
    ahead: int
    """Bitset, from ``low`` on, of the known operations that have been taken up beyond it.  Its bit 0 is never set."""
    used: int
    """Bitset of the unknown operations that have been taken up."""
    state: Any
    operation: Operation | None
    """The last one that was taken up."""
    previous: "_Configuration | None"

    @property
    def score(self) -> int:
        return self.low + self.ahead.bit_count() - _UNKNOWN_COSTS * self.used.bit_count()

    def path(self) -> tuple[Operation, ...]:
        """Everything that was taken up, in that order."""
        backward: list[Operation] = []
        place: _Configuration | None = self
        while place is not None and place.operation is not None:
            backward.append(place.operation)
            place = place.previous
        return tuple(reversed(backward))


class _Search:
    """The search on one key."""

    def __init__(self, operations: list[Operation], model: Model[Any, Any]) -> None:
        in_order = sorted(operations, key=lambda operation: operation.invoked)
        self.steps = 0
        self.furthest = _Configuration(0, 0, 0, model.initial(), None, None)
        """Of the configurations taken from the heap, the one whose first remaining return is the latest."""
        self._furthest_return = -math.inf
        self._model = model
        self._known = [operation for operation in in_order if operation.returned is not None]
        self._unknown = [operation for operation in in_order if operation.returned is None]
        self._invoked = [operation.invoked for operation in self._known]
        self._returned = [operation.returned or 0 for operation in self._known]
        self._twins = _twins(self._unknown)
        self._observed = [model.observed(operation.action, operation.result) for operation in self._known]
        self._next_observed = _next_places(self._observed)
        self._only_read = [model.only_read(operation.action, operation.result) for operation in self._known]
        self._reached: dict[tuple[int, int, Any], list[int]] = {}
        """For known operations taken up and state: with which unknown ones."""
        self._heap: list[tuple[int, int, bool, _Configuration]] = []
        """The least is taken: the best score, among equals the youngest.  The flag: it is the unknown ones' turn."""
        self._serial = itertools.count()

    def run(
        self, stopwatch: Callable[[], float], *, deadline: float, max_steps: int
    ) -> Literal["linearizable", "not_linearizable", "unknown"]:
        self._push(self.furthest)
        while self._heap:
            if self.steps > max_steps or stopwatch() >= deadline:
                return "unknown"
            _, _, known_are_done, here = heapq.heappop(self._heap)
            candidates, first_return = self._candidates(here)
            if not candidates:
                return "linearizable"
            if known_are_done:
                self._take_unknown(here, first_return)
                continue
            if first_return > self._furthest_return:
                self.furthest, self._furthest_return = here, first_return
            self._take_known(here, candidates)
        return "not_linearizable"

    # ------------------------------------------------------------------------------------- what may be next

    def _candidates(self, here: _Configuration) -> tuple[list[int], float]:
        """The known operations that may be next, and the first return among those that remain.

        Whatever began after that return must come after the operation that returned.
        """
        found: list[int] = []
        first_return = math.inf
        ahead = here.ahead
        for number in range(here.low, len(self._known)):
            if self._invoked[number] > first_return:
                break
            if not ahead & 1:
                found.append(number)
                first_return = min(first_return, self._returned[number])
            ahead >>= 1
        return found, first_return

    def _unknown_candidates(self, here: _Configuration, first_return: float) -> Iterator[int]:
        for number, operation in enumerate(self._unknown):
            if operation.invoked > first_return:
                return
            twin = self._twins[number]
            if not here.used >> number & 1 and here.used & twin == twin:  # rule 3
                yield number

    def _take_known(self, here: _Configuration, candidates: list[int]) -> None:
        followers: list[_Configuration] = []
        for number in sorted(candidates, key=self._returned.__getitem__):
            follower = self._after_known(here, number)
            if follower is None:
                continue
            if self._only_read[number]:  # rule 4
                self._push(follower)
                return
            followers.append(follower)
        if self._unknown:  # their turn comes when nothing better is left, and perhaps never
            self._enqueue(here, score=here.score - _UNKNOWN_COSTS, known_are_done=True)
        for follower in reversed(followers):  # the youngest is taken first: let it be the one that returned first
            self._push(follower)

    def _take_unknown(self, here: _Configuration, first_return: float) -> None:
        for number in self._unknown_candidates(here, first_return):
            follower = self._after_unknown(here, number)
            if follower is not None:
                self._push(follower)

    def _after_known(self, here: _Configuration, number: int) -> _Configuration | None:
        operation = self._known[number]
        state = self._step(here.state, operation, operation.result)
        if state is None:
            return None
        low, ahead = here.low, here.ahead | 1 << (number - here.low)
        ones = (ahead ^ (ahead + 1)).bit_length() - 1  # at its low end
        return _Configuration(low + ones, ahead >> ones, here.used, state, operation, here)

    def _after_unknown(self, here: _Configuration, number: int) -> _Configuration | None:
        operation = self._unknown[number]
        state = self._step(here.state, operation, UNKNOWN)
        if state is None:
            return None
        return _Configuration(here.low, here.ahead, here.used | 1 << number, state, operation, here)

    def _step(self, state: Any, operation: Operation, result: Any) -> Any:
        try:
            return self._model.step(state, operation.action, result)
        except Exception as error:
            error.add_note(f"its state was {shortened(state)}, and the operation {operation}")
            raise

    # ----------------------------------------------------------------------------------------- what is kept

    def _push(self, place: _Configuration) -> None:
        """Keep a configuration for later, unless it is hopeless or no better than one that was reached before."""
        if self._out_of_reach(place) is not None:  # rule 5
            return
        others = self._reached.setdefault((place.low, place.ahead, place.state), [])
        if any(other & ~place.used == 0 for other in others):  # rule 2
            return
        others.append(place.used)
        self.steps += 1
        self._enqueue(place, score=place.score, known_are_done=False)

    def _enqueue(self, place: _Configuration, *, score: int, known_are_done: bool) -> None:
        heapq.heappush(self._heap, (-score, -next(self._serial), known_are_done, place))

    def _out_of_reach(self, place: _Configuration) -> Operation | None:
        """The next operation to have observed a state, if no way leads to that state from here."""
        number = self._next_observed[place.low]
        while number < len(self._known) and place.ahead >> (number - place.low) & 1:
            number = self._next_observed[number + 1]
        if number == len(self._known) or self._model.can_reach(place.state, self._observed[number]):
            return None
        return self._known[number]

    # -------------------------------------------------------------------------------------- the explanation

    def blocked(self) -> list[tuple[Operation, str]]:
        """What would have to be next where the search came furthest, and what speaks against each."""
        here = self.furthest
        candidates, first_return = self._candidates(here)
        known = [(self._known[number], self._after_known(here, number)) for number in candidates]
        unknown = [
            (self._unknown[number], self._after_unknown(here, number))
            for number in self._unknown_candidates(here, first_return)
        ]
        return [(operation, self._objection(follower)) for operation, follower in known + unknown]

    def _objection(self, follower: _Configuration | None) -> str:
        if follower is None:
            return "impossible in this state"
        observer = self._out_of_reach(follower)
        if observer is not None:
            return f"makes it {shortened(follower.state)}, which does not fit {observer}"
        return f"makes it {shortened(follower.state)}, and leads no further"


def _twins(unknown: list[Operation]) -> list[int]:
    """For each operation the bit of the previous one that asks for the same, 0 if it is the first."""
    latest: dict[Hashable, int] = {}
    twins: list[int] = []
    for number, operation in enumerate(unknown):
        twins.append(latest.get(operation.action, 0))
        latest[operation.action] = 1 << number
    return twins


def _next_places(observed: list[Any]) -> list[int]:
    """For each number, and the one past the end, the first number from there on at which something was observed."""
    places = [len(observed)]
    for number in reversed(range(len(observed))):
        places.append(places[-1] if observed[number] is None else number)
    places.reverse()
    return places


def _no_pass(key: Hashable, outcome: Literal["not_linearizable", "unknown"], search: _Search, *, steps: int) -> Verdict:
    """The verdict on a key whose search did not succeed."""
    longest = search.furthest.path()
    state = shortened(search.furthest.state)
    blocked = search.blocked()
    if outcome == "unknown":
        head = (
            f"undecided: key {key!r}, after {steps} steps. Give it more seconds or steps, or check a shorter history."
        )
    else:
        head = f"not linearizable: key {key!r}. No order of its operations explains every result."
    lines = [
        head,
        f"The order that gets furthest in time has {len(longest)} operations and ends in {state}:",
    ]
    lines += [f"  ... {len(longest) - _LINES_SHOWN} more"] if len(longest) > _LINES_SHOWN else []
    lines += [f"  {operation}" for operation in longest[-_LINES_SHOWN:]]
    lines += ["One of these would have to be next:"]
    lines += [f"  {operation}: {objection}" for operation, objection in blocked[:_LINES_SHOWN]]
    lines += [f"  ... {len(blocked) - _LINES_SHOWN} more"] if len(blocked) > _LINES_SHOWN else []
    return Verdict(outcome, steps, "\n".join(lines), key, longest, tuple(operation for operation, _ in blocked))

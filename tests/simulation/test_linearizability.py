"""The judge on trial: histories of which we know what they are, and a slow judge that tries every order.

``Objects`` plays true objects with clients whose operations overlap, take effect at a random moment, or get lost; so
its histories are linearizable by construction.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from random import Random
from typing import Any

import attrs
import pytest

from trio_raft.testing import _linearizability
from trio_raft.testing._history import UNKNOWN, Call, History, Operation
from trio_raft.testing._linearizability import Verdict, check_linearizable
from trio_raft.testing._models import (
    Append,
    AppendList,
    CompareAndSwap,
    Delete,
    Get,
    KeyValue,
    Model,
    Put,
    Read,
    Register,
    Write,
)

AnyModel = Model[Any, Any]
REGISTER, KEY_VALUE, LIST = Register(), KeyValue(), AppendList()


def op(invoked: int, returned: int | None, action: Hashable, result: object = None) -> Operation:
    """An operation on one key; without a return its outcome is unknown."""
    return Operation(f"client {invoked}", "x", action, invoked, returned, UNKNOWN if returned is None else result)


# -------------------------------------------------------------------------------------- known histories

GOOD: dict[str, tuple[AnyModel, list[Operation]]] = {
    "nothing happened": (REGISTER, []),
    "nobody heard anything": (REGISTER, [op(1, None, Write(1)), op(2, None, Read())]),
    "one after the other": (REGISTER, [op(1, 2, Write(1)), op(3, 4, Read(), 1)]),
    "a read during a write sees the old value": (REGISTER, [op(1, 4, Write(1)), op(2, 3, Read(), None)]),
    "a read during a write sees the new value": (REGISTER, [op(1, 4, Write(1)), op(2, 3, Read(), 1)]),
    "overlapping writes in either order": (
        REGISTER,
        [op(1, 4, Write(1)), op(2, 3, Write(2)), op(5, 6, Read(), 1)],
    ),
    "an unknown write took effect late": (
        REGISTER,
        [op(1, None, Write(1)), op(2, 3, Write(2)), op(4, 5, Read(), 2), op(6, 7, Read(), 1)],
    ),
    "an unknown write took effect after two overlapping ones were read": (
        REGISTER,
        [op(1, None, Write(0)), op(2, 5, Write(1)), op(3, 4, Write(2)), op(6, 7, Read(), 2), op(8, 9, Read(), 0)],
    ),
    "an unknown write took effect after two others, the other way round": (
        REGISTER,
        [op(1, None, Write(0)), op(2, 4, Write(1)), op(3, 5, Write(2)), op(6, 7, Read(), 1), op(8, 9, Read(), 0)],
    ),
    "of two unknown ways to one state, the first was needed first": (
        REGISTER,
        [
            *(op(1, None, CompareAndSwap(None, 1)), op(2, None, Write(1)), op(3, 4, Read(), 1)),
            *(op(5, 6, Write(2)), op(7, 8, Read(), 1)),
        ],
    ),
    "of two unknown ways to one state, the second was needed first": (
        REGISTER,
        [
            *(op(1, None, Write(1)), op(2, None, CompareAndSwap(None, 1)), op(3, 4, Read(), 1)),
            *(op(5, 6, Write(2)), op(7, 8, Read(), 1)),
        ],
    ),
    "an unknown write never took effect": (
        REGISTER,
        [op(1, None, Write(1)), op(2, 3, Write(2)), op(4, 5, Read(), 2), op(6, 7, Read(), 2)],
    ),
    "an unknown swap built on an unknown write": (
        REGISTER,
        [op(1, None, CompareAndSwap(1, 2)), op(2, None, Write(1)), op(3, 4, Read(), 2)],
    ),
    "two unknown writes of one value, each read once": (
        REGISTER,
        [
            *(op(1, None, Write(1)), op(2, None, Write(1)), op(3, 4, Read(), 1)),
            *(op(5, 6, Write(2)), op(7, 8, Read(), 1)),
        ],
    ),
    "a write that changes nothing now is needed later": (
        KEY_VALUE,
        [op(1, 9, Delete()), op(2, 3, Put(1)), op(4, 5, Get(), 1), op(6, 7, Get(), None)],
    ),
    "a swap won, and one lost to it": (
        REGISTER,
        [op(1, 4, CompareAndSwap(None, 1), True), op(2, 3, CompareAndSwap(None, 2), False), op(5, 6, Read(), 1)],
    ),
    "a key is put, deleted and put again": (
        KEY_VALUE,
        [
            *(op(1, 2, Put(1)), op(3, 4, Delete()), op(5, 6, Get(), None)),
            *(op(7, 8, CompareAndSwap(None, 2), True), op(9, 10, Get(), 2)),
        ],
    ),
    "an unknown delete took effect between two gets": (
        KEY_VALUE,
        [op(1, 2, Put(1)), op(3, None, Delete()), op(4, 5, Get(), 1), op(6, 7, Get(), None)],
    ),
    "a list shows the order of overlapping appends": (
        LIST,
        [op(1, 4, Append(1)), op(2, 3, Append(2)), op(5, 6, Read(), (2, 1))],
    ),
    "an unknown append stands between others": (
        LIST,
        [op(1, None, Append(1)), op(2, 3, Append(2)), op(4, 5, Append(3)), op(6, 7, Read(), (2, 1, 3))],
    ),
}

BAD: dict[str, tuple[AnyModel, list[Operation]]] = {
    "stale read": (REGISTER, [op(1, 2, Write(1)), op(3, 4, Write(2)), op(5, 6, Read(), 1)]),
    "lost update": (REGISTER, [op(1, 2, Write(1)), op(3, 4, Read(), None)]),
    "read of what was never written": (REGISTER, [op(1, 2, Write(1)), op(3, 4, Read(), 7)]),
    "read of what was written afterwards": (REGISTER, [op(1, 2, Read(), 1), op(3, 4, Write(1))]),
    "read of an unknown write before it began": (REGISTER, [op(1, 2, Read(), 1), op(3, None, Write(1))]),
    "two reads during a write see it come and go": (
        REGISTER,
        [op(1, 8, Write(1)), op(2, 3, Read(), 1), op(4, 5, Read(), None)],
    ),
    "two readers disagree on the order of two writes": (
        REGISTER,
        [
            *(op(1, 20, Write(1)), op(2, 19, Write(2))),
            *(op(3, 4, Read(), 1), op(5, 6, Read(), 2), op(7, 8, Read(), 1)),
        ],
    ),
    "an unknown write took effect twice": (
        REGISTER,
        [
            *(op(1, None, Write(1)), op(2, 3, Read(), 1)),
            *(op(4, 5, Write(2)), op(6, 7, Read(), 1)),
        ],
    ),
    "both of two swaps won": (
        REGISTER,
        [op(1, 4, CompareAndSwap(None, 1), True), op(2, 3, CompareAndSwap(None, 2), True)],
    ),
    "a deleted key is still there": (KEY_VALUE, [op(1, 2, Put(1)), op(3, 4, Delete()), op(5, 6, Get(), 1)]),
    "a key was never put": (KEY_VALUE, [op(1, None, Delete()), op(2, 3, Get(), 1)]),
    "an append is lost": (LIST, [op(1, 2, Append(1)), op(3, 4, Append(2)), op(5, 6, Read(), (1,))]),
    "an append is doubled": (LIST, [op(1, 2, Append(1)), op(3, 4, Read(), (1, 1))]),
    "appends change places": (LIST, [op(1, 2, Append(1)), op(3, 4, Append(2)), op(5, 6, Read(), (2, 1))]),
    "two reads of a list contradict each other": (
        LIST,
        [op(1, 9, Append(1)), op(2, 8, Append(2)), op(3, 6, Read(), (1,)), op(4, 7, Read(), (2,))],
    ),
}


@pytest.mark.parametrize("story", GOOD)
def test_good_history_is_accepted(story: str) -> None:
    """A history that some order explains is linearizable."""
    model, operations = GOOD[story]
    assert check_linearizable(operations, model).outcome == "linearizable"


@pytest.mark.parametrize("story", BAD)
def test_bad_history_is_rejected(story: str) -> None:
    """A history that no order explains is not linearizable."""
    model, operations = BAD[story]
    assert check_linearizable(operations, model).outcome == "not_linearizable"


@pytest.mark.parametrize("story", [*GOOD, *BAD])
def test_brute_force_knows_the_stories_too(story: str) -> None:
    """The slow judge, which tries every order, agrees on the known histories."""
    model, operations = {**GOOD, **BAD}[story]
    assert some_order_explains(operations, model) is (story in GOOD)


# ------------------------------------------------------------------------------------------ brute force


def some_order_explains(operations: Iterable[Operation], model: AnyModel) -> bool:
    """The definition: some unknown operations and all known ones, in any order that keeps "before"."""
    everything = list(operations)
    known = [operation for operation in everything if operation.returned is not None]
    unknown = [operation for operation in everything if operation.returned is None]
    return any(
        extends([*known, *some], model, model.initial())
        for count in range(len(unknown) + 1)
        for some in itertools.combinations(unknown, count)
    )


def extends(remaining: Sequence[Operation], model: AnyModel, state: Any) -> bool:
    """Whether all of these, in some order, explain their results from this state on."""
    if not remaining:
        return True
    for operation in remaining:
        if any(other.returned is not None and other.returned < operation.invoked for other in remaining):
            continue
        after = model.step(state, operation.action, operation.result)
        if after is not None and extends([other for other in remaining if other is not operation], model, after):
            return True
    return False


# ------------------------------------------------------------------------------------- random histories


@attrs.frozen
class Objects:
    """True objects, one for each key, and clients that use them at the same time."""

    random: Random
    model: AnyModel
    draw_action: Callable[[Random], Hashable]
    unknown_share: float = 0.0

    def history(self, *, clients: int, keys: int, operations: int) -> History:
        """So many operations; the moments of effect are drawn, some calls get lost on either side of it."""
        history = History()
        states = [self.model.initial() for _ in range(keys)]
        begun: dict[int, tuple[Call, int, Hashable]] = {}
        effective: dict[int, tuple[Call, object]] = {}
        lost: list[tuple[int, Hashable]] = []
        left = operations
        while left or begun or effective:
            client = self.random.randrange(clients)
            if client in effective:
                call, result = effective.pop(client)
                call.complete(result)
            elif client in begun:
                call, key, action = begun.pop(client)
                if self.random.random() < self.unknown_share:
                    lost.append((key, action))
                else:
                    states[key], result = self.perform(states[key], action)
                    effective[client] = call, result
            elif left:
                left -= 1
                key, action = self.random.randrange(keys), self.draw_action(self.random)
                begun[client] = history.begin(f"client {client}", key, action), key, action
            if lost and self.random.random() < 0.1:
                key, action = lost.pop(self.random.randrange(len(lost)))
                if self.random.random() < 0.6:
                    states[key], _ = self.perform(states[key], action)
        return history

    def perform(self, state: Any, action: Any) -> tuple[Any, object]:
        """The state afterwards and the result: the first of the possible results that the model agrees to."""
        results = (None, True, False, state, *(state if isinstance(state, tuple) else ()))
        if isinstance(action, Read | Get):
            results = (what_a_read_shows(self.model, state),)
        for result in results:
            after = self.model.step(state, action, result)
            if after is not None:
                return after, result
        raise AssertionError(f"{action} has no result in state {state!r}")


def what_a_read_shows(model: AnyModel, state: tuple[object, ...]) -> object:
    if isinstance(model, AppendList):
        return state
    return state[0] if state else None


def few_register_actions(random: Random) -> Hashable:
    return random.choice(
        [Read(), Read(), Write(random.randrange(3)), CompareAndSwap(random.randrange(3), random.randrange(3))]
    )


def few_key_value_actions(random: Random) -> Hashable:
    return random.choice([Get(), Get(), Put(random.randrange(2)), Delete(), CompareAndSwap(None, random.randrange(2))])


def few_list_actions(random: Random) -> Hashable:
    return random.choice([Read(), Append(random.randrange(3))])


class Counter(Model[int, str]):
    """A model as users write them, without any hints."""

    def initial(self) -> int:
        return 0

    def step(self, state: int, action: str, result: Any) -> int | None:
        after = state + 1 if action == "increment" else state
        return after if result in (UNKNOWN, after) else None


SMALL: list[tuple[AnyModel, Callable[[Random], Hashable], Sequence[object]]] = [
    (REGISTER, few_register_actions, (None, 0, 1, 2, True, False)),
    (KEY_VALUE, few_key_value_actions, (None, 0, 1, True, False)),
    (LIST, few_list_actions, ((), (0,), (1,), (0, 1), (1, 0), (2, 2))),
]


def mutated(random: Random, operations: Iterable[Operation], results: Sequence[object]) -> list[Operation]:
    """One result exchanged, or one operation moved in time, or nothing."""
    changed = list(operations)
    place = random.randrange(len(changed))
    operation = changed[place]
    if operation.returned is not None and random.random() < 0.7:
        changed[place] = attrs.evolve(operation, result=random.choice(results))
    elif operation.returned is not None:
        by = random.randrange(-6, 7)
        changed[place] = attrs.evolve(operation, invoked=operation.invoked + by, returned=operation.returned + by)
    return changed


def random_results(random: Random, operations: Iterable[Operation], results: Sequence[object]) -> list[Operation]:
    """Every result drawn anew."""
    changed: list[Operation] = []
    for operation in operations:
        if operation.returned is None:
            changed.append(operation)
        else:
            drawn = random.choice((True, False) if isinstance(operation.action, CompareAndSwap) else results)
            changed.append(attrs.evolve(operation, result=drawn))
    return changed


def small_histories(count: int) -> Iterable[tuple[AnyModel, list[Operation]]]:
    """At most six operations of three clients: true ones, mutated ones, arbitrary ones."""
    for seed in range(count):
        random = Random(seed)
        model, draw_action, results = SMALL[seed % len(SMALL)]
        objects = Objects(random, model, draw_action, unknown_share=random.choice([0.0, 0.3, 0.6]))
        operations = list(objects.history(clients=3, keys=1, operations=random.randrange(2, 7)))
        change = random.choice([None, mutated, random_results, random_results])
        yield model, change(random, operations, results) if change else operations


@pytest.mark.parametrize("cost", [0, -8])
def test_order_of_the_search_decides_speed_alone(monkeypatch: pytest.MonkeyPatch, cost: int) -> None:
    """The verdicts are the same if unknown operations are tried as readily as known ones, or even first."""
    monkeypatch.setattr(_linearizability, "_UNKNOWN_COSTS", cost)
    for story, (model, operations) in {**GOOD, **BAD}.items():
        assert bool(check_linearizable(operations, model)) is (story in GOOD), story
    for number, (model, operations) in enumerate(small_histories(1000)):
        expected = some_order_explains(operations, model)
        assert bool(check_linearizable(operations, model)) is expected, f"history {number}: {operations}"


def test_agrees_with_brute_force() -> None:
    """On 2,000 random histories of up to six operations the verdict is that of trying every order."""
    verdicts = {True: 0, False: 0}
    for number, (model, operations) in enumerate(small_histories(2000)):
        expected = some_order_explains(operations, model)
        verdicts[expected] += 1
        assert bool(check_linearizable(operations, model)) is expected, f"history {number}: {operations}"
    # Neither answer is so rare that always giving the other would look right.
    assert min(verdicts.values()) > 500


def test_counter_agrees_with_brute_force() -> None:
    """The same holds for a model without hints, and many unknown operations that ask for the same."""
    verdicts = {True: 0, False: 0}
    for seed in range(500):
        random = Random(seed)
        times = random.sample(range(40), 12)
        operations = [
            Operation(
                f"client {number}",
                "x",
                random.choice(["increment", "increment", "read"]),
                min(times[2 * number : 2 * number + 2]),
                *(() if random.random() < 0.4 else (max(times[2 * number : 2 * number + 2]), random.randrange(4))),
            )
            for number in range(6)
        ]
        expected = some_order_explains(operations, Counter())
        verdicts[expected] += 1
        assert bool(check_linearizable(operations, Counter())) is expected, f"seed {seed}: {operations}"
    assert min(verdicts.values()) > 50


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_true_objects_are_accepted(number: int) -> None:
    """Histories of true objects, with moments of effect drawn at random, are linearizable."""
    model, draw_action, _ = SMALL[number]
    for seed in range(20):
        objects = Objects(Random(seed), model, draw_action, unknown_share=0.02)
        history = objects.history(clients=5, keys=3, operations=150)
        assert check_linearizable(history, model).outcome == "linearizable", f"seed {seed}"


# ------------------------------------------------------------------------------------------- large ones


class Values:
    """Draws actions in which each value is written once, as tests of a cluster should."""

    def __init__(self, model: AnyModel) -> None:
        self.model = model
        self.written = 0

    def __call__(self, random: Random) -> Hashable:
        read = random.random() < 0.5
        self.written += 1
        if self.model is KEY_VALUE:
            return Get() if read else Delete() if random.random() < 0.1 else Put(self.written)
        if isinstance(self.model, AppendList):
            return Read() if read else Append(self.written)
        return Read() if read else Write(self.written)


class ListWithoutHints(AppendList):
    """Tells the search nothing but what the methods that every model has tell."""

    def only_read(self, action: Read | Append, result: Any) -> bool:
        return False

    def observed(self, action: Read | Append, result: Any) -> None:
        return None


def large_history(model: AnyModel, *, seed: int) -> History:
    objects = Objects(Random(seed), model, Values(model), unknown_share=0.01)
    return objects.history(clients=8, keys=10, operations=10_000)


@pytest.mark.parametrize(
    "model",
    [REGISTER, KEY_VALUE, LIST, ListWithoutHints()],
    ids=["register", "key-value", "list", "list without hints"],
)
def test_ten_thousand_operations_are_decided(model: AnyModel) -> None:
    """10,000 operations on 10 keys by 8 clients, a hundredth unknown, take little more than a step each."""
    history = large_history(model, seed=1)
    unknown = [operation for operation in history if operation.returned is None]
    verdict = check_linearizable(history, model, seconds=math.inf, max_steps=20_000)
    assert (len(history), 70 < len(unknown) < 130) == (10_000, True)
    assert verdict.outcome == "linearizable"


@pytest.mark.parametrize("model", [REGISTER, KEY_VALUE, LIST], ids=["register", "key-value", "list"])
def test_one_stale_read_in_ten_thousand_is_found(model: AnyModel) -> None:
    """A single read of an older state is found, near the end of its key, and the right key is named."""
    operations = list(large_history(model, seed=2))
    reads = [
        place
        for place, operation in enumerate(operations)
        if operation.key == 7 and isinstance(operation.action, Read | Get) and operation.returned is not None
    ]
    stale = operations[reads[-20]]
    older = next(
        operations[place].result for place in reads[-60:-50] if operations[place].result not in (None, stale.result)
    )
    operations[reads[-20]] = attrs.evolve(stale, result=older)
    verdict = check_linearizable(operations, model, seconds=math.inf, max_steps=100_000)
    assert (verdict.outcome, verdict.key) == ("not_linearizable", 7)


def test_long_history_of_one_client_needs_no_recursion() -> None:
    """5,000 operations in a row are taken one by one, and an explanation of the last one is still short."""
    operations = [op(2 * number + 1, 2 * number + 2, Write(number)) for number in range(5000)]
    assert check_linearizable(operations, REGISTER).steps == 5001
    verdict = check_linearizable([*operations, op(20_001, 20_002, Read(), -1)], REGISTER)
    assert len(verdict.longest) == 5000
    assert len(verdict.explanation.splitlines()) < 20


def test_many_lost_increments_of_one_kind_do_not_explode() -> None:
    """40 unknown operations that ask for the same are tried as one kind, not in every subset."""
    lost = [op(number, None, "increment") for number in range(1, 41)]
    reads = [op(100 + 2 * number, 101 + 2 * number, "read", number) for number in range(42)]
    assert check_linearizable([*lost, *reads[:41]], Counter(), max_steps=2000).outcome == "linearizable"
    assert check_linearizable([*lost, *reads], Counter(), max_steps=2000).outcome == "not_linearizable"


def test_lost_writes_that_nobody_read_do_not_multiply() -> None:
    """20 unknown writes before 30 known ones: each may stand before each, but no more than one at a time is tried."""
    lost = [op(number, None, Write(number)) for number in range(1, 21)]
    known = [op(100 + 2 * number, 101 + 2 * number, Write(100 + number)) for number in range(30)]
    verdict = check_linearizable([*lost, *known, op(200, 201, Read(), 0)], REGISTER, max_steps=31 * 21)
    assert verdict.outcome == "not_linearizable"


def test_what_lists_show_keeps_lost_appends_in_bounds() -> None:
    """30 lost appends, of which a read shows one, are not tried in every order."""
    lost = [op(number, None, Append(number)) for number in range(1, 31)]
    known = [op(100 + 2 * number, 101 + 2 * number, Append(100 + number)) for number in range(10)]
    shown = (100, 101, 17, *range(102, 110))
    bad = (100, 101, 17, 17, *range(102, 110))
    assert check_linearizable([*lost, *known, op(200, 201, Read(), shown)], LIST, max_steps=2000)
    verdict = check_linearizable([*lost, *known, op(200, 201, Read(), bad)], LIST, max_steps=2000)
    assert verdict.outcome == "not_linearizable"


# --------------------------------------------------------------------------------------- keys and verdicts


def on_key(key: Hashable, *operations: Operation) -> list[Operation]:
    return [attrs.evolve(operation, key=key) for operation in operations]


def test_keys_are_judged_apart() -> None:
    """Operations on one key neither explain nor contradict those on another, and the failing key is named."""
    write, read = op(1, 2, Write(1)), op(3, 4, Read(), 1)
    assert check_linearizable([*on_key("x", write, read), *on_key("y", op(5, 6, Read(), None))], REGISTER)
    verdict = check_linearizable([*on_key("x", write), *on_key("y", read)], REGISTER)
    assert (verdict.outcome, verdict.key) == ("not_linearizable", "y")


def test_model_may_judge_keys_together() -> None:
    """A model whose ``key`` is constant sees the operations on all keys as one object's."""

    class OneRegister(Register):
        def key(self, operation: Operation) -> Hashable:
            return "the one"

    operations = [*on_key("x", op(1, 2, Write(1))), *on_key("y", op(3, 4, Read(), 1))]
    assert check_linearizable(operations, OneRegister()).outcome == "linearizable"


def test_order_of_the_input_does_not_matter() -> None:
    """Operations may come in any order: their events decide."""
    operations = [op(3, 4, Read(), 1), op(5, 6, Write(2)), op(1, 2, Write(1))]
    for order in itertools.permutations(operations):
        assert check_linearizable(order, REGISTER).outcome == "linearizable"


def test_explanation_shows_how_far_it_came() -> None:
    """A failure shows the longest order that holds, its state, and why nothing could follow."""
    operations = [op(1, 2, Write(1)), op(3, None, Write(5)), op(4, 7, Write(2)), op(8, 9, Read(), 1)]
    verdict = check_linearizable(operations, REGISTER)
    assert [operation.action for operation in verdict.longest] == [Write(1), Write(2)]
    assert [operation.action for operation in verdict.blocked] == [Read(), Write(5)]
    assert verdict.explanation.splitlines() == [
        "not linearizable: key 'x'. No order of its operations explains every result.",
        "The order that gets furthest in time has 2 operations and ends in (2,):",
        "  client 1: Write(value=1) on 'x' -> None (events 1 to 2)",
        "  client 4: Write(value=2) on 'x' -> None (events 4 to 7)",
        "One of these would have to be next:",
        "  client 8: Read() on 'x' -> 1 (events 8 to 9): impossible in this state",
        "  client 3: Write(value=5) on 'x' -> unknown (events 3 to ?): makes it (5,), and leads no further",
    ]


def test_explanation_names_what_was_observed_later() -> None:
    """Where a state was given up because of a later read, the explanation names that read."""
    model, operations = BAD["an append is lost"]
    verdict = check_linearizable(operations, model)
    assert "makes it (1, 2), which does not fit client 5: Read() on 'x' -> (1,)" in verdict.explanation


# ------------------------------------------------------------------------------------- budget and bad input


def hard_history() -> list[Operation]:
    """Many overlapping writes and a read that none of their orders explains."""
    writes = [op(number, 100 + number, Write(number)) for number in range(1, 12)]
    return [*writes, op(200, 201, Read(), 0)]


def test_steps_spent_is_unknown() -> None:
    """A search that runs out of steps is undecided, is no pass, and says what to do."""
    verdict = check_linearizable(hard_history(), REGISTER, seconds=math.inf, max_steps=1000)
    assert (verdict.outcome, verdict.key, bool(verdict)) == ("unknown", "x", False)
    assert verdict.explanation.startswith("undecided: key 'x', after 1005 steps. Give it more seconds or steps")
    assert check_linearizable(hard_history(), REGISTER).outcome == "not_linearizable"


def test_time_spent_is_unknown() -> None:
    """A search that runs out of time, by the stopwatch given, is undecided."""
    ticks = itertools.count()
    verdict = check_linearizable(hard_history(), REGISTER, seconds=50.0, stopwatch=lambda: float(next(ticks)))
    assert verdict.outcome == "unknown"
    assert verdict.steps < 600


def test_hard_key_leaves_budget_to_the_others() -> None:
    """A key that cannot be decided does not hide that another one is not linearizable."""
    ticks = itertools.count()
    bad = on_key("y", op(1, 2, Read(), 1))
    verdict = check_linearizable([*hard_history(), *bad], REGISTER, seconds=100.0, stopwatch=lambda: float(next(ticks)))
    assert (verdict.outcome, verdict.key) == ("not_linearizable", "y")
    good = on_key("y", op(1, 2, Read(), None))
    verdict = check_linearizable([*hard_history(), *good], REGISTER, seconds=math.inf, max_steps=500)
    assert (verdict.outcome, verdict.key) == ("unknown", "x")


def test_steps_bound_all_keys_together() -> None:
    """Three keys that cannot be decided take no more steps together than one may take."""
    operations = [operation for key in "xyz" for operation in on_key(key, *hard_history())]
    verdict = check_linearizable(operations, REGISTER, seconds=math.inf, max_steps=900)
    assert verdict.outcome == "unknown"
    assert verdict.steps < 950


def test_verdict_is_true_only_if_linearizable() -> None:
    """A verdict can stand in an assert: anything but a proof is false."""
    outcomes: list[Verdict] = [
        Verdict("linearizable", 0, ""),
        Verdict("not_linearizable", 0, ""),
        Verdict("unknown", 0, ""),
    ]
    assert [bool(verdict) for verdict in outcomes] == [True, False, False]


@pytest.mark.parametrize(("seconds", "max_steps"), [(0.0, 1), (-1.0, 1), (math.nan, 1), (1.0, 0)])
def test_bounds_must_be_positive(seconds: float, max_steps: int) -> None:
    """A budget with which nothing could be decided is refused."""
    with pytest.raises(ValueError, match="must be positive"):
        check_linearizable([], REGISTER, seconds=seconds, max_steps=max_steps)


def test_model_must_be_an_instance() -> None:
    """A class in place of its instance is refused."""
    with pytest.raises(TypeError, match="must be an instance of Model"):
        check_linearizable([], Register)  # type: ignore[arg-type]


def test_model_that_raises_is_named() -> None:
    """What a model raises passes through, with a note of what it was asked and on which key."""

    class Broken(Register):
        def step(self, state: Any, action: Any, result: Any) -> Any:
            raise LookupError("no such luck")

    with pytest.raises(LookupError, match="no such luck") as caught:
        check_linearizable([op(1, 2, Write(1))], Broken())
    assert caught.value.__notes__ == [
        "its state was (None,), and the operation client 1: Write(value=1) on 'x' -> None (events 1 to 2)",
        "Broken was judging the operations on key 'x'",
    ]


def test_state_that_cannot_be_hashed_is_named() -> None:
    """A model whose states cannot be hashed fails with its name."""

    class Lists(Counter):
        def initial(self) -> Any:
            return []

    with pytest.raises(TypeError, match="unhashable") as caught:
        check_linearizable([op(1, 2, "read", 0)], Lists())
    assert caught.value.__notes__ == ["Lists was judging the operations on key 'x'"]

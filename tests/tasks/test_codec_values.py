"""Commands as bytes: what is encoded comes back the same, and what does not fit its type never leaves the caller."""

import datetime
import enum
import math
import re
from collections.abc import Mapping
from typing import Any, NewType

import attrs
import hypothesis
import hypothesis.strategies as st
import msgpack
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import N1, lead_term, make_config, make_server
from trio_raft._apply import Applier
from trio_raft._errors import StateMachineError
from trio_raft._values import ValueCodec
from trio_raft.abc import Committed, StateMachine

Name = NewType("Name", str)


class Unit(enum.Enum):
    EURO = "eur"
    CENT = "cent"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.StrEnum):
    RED = "red"


@attrs.frozen
class Add:
    amount: int


@attrs.frozen
class Put:
    key: Name
    value: bytes
    unit: Unit = Unit.EURO


@attrs.frozen
class Everything:
    text: str
    data: bytes
    flag: bool
    number: int
    real: float
    unit: Unit
    level: Level
    colour: Colour
    nested: Put
    either: Add | Put | None
    simple: int | str | None
    many: tuple[Put, ...]
    pair: tuple[int, str]
    numbers: list[int]
    names: frozenset[str]
    by_name: dict[Name, Add]
    by_number: Mapping[int, tuple[float, ...]]


EVERYTHING = Everything(
    text="é",
    data=b"\x00\xff",
    flag=True,
    number=-5,
    real=0.5,
    unit=Unit.CENT,
    level=Level.HIGH,
    colour=Colour.RED,
    nested=Put(Name("k"), b"v"),
    either=Add(1),
    simple=None,
    many=(Put(Name("a"), b"1"), Put(Name("b"), b"2", Unit.CENT)),
    pair=(1, "one"),
    numbers=[1, 2],
    names=frozenset({"x", "y"}),
    by_name={Name("n"): Add(2)},
    by_number={7: (1.5, -0.0)},
)


def changed(command: Everything, field: str, value: Any) -> Everything:
    """The command with one field changed to anything, right or wrong."""
    changes: dict[str, Any] = {field: value}
    return attrs.evolve(command, **changes)


# ------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("kind", "value", "plain"),
    [
        (int, -7, -7),
        (str, "a", "a"),
        (Unit, Unit.CENT, "cent"),
        (Add, Add(3), ["Add", {"amount": 3}]),
        (Add | Put, Add(3), ["Add", {"amount": 3}]),
        (Add | None, None, None),
        (Put, Put(Name("k"), b"v"), ["Put", {"key": "k", "value": b"v", "unit": "eur"}]),
        (tuple[Add, ...], (Add(1),), [{"amount": 1}]),
        (list[Add | Put], [Add(1)], [["Add", {"amount": 1}]]),
        (dict[str, int], {"a": 1}, {"a": 1}),
    ],
)
def test_encode_format(kind: Any, value: object, plain: object) -> None:
    """What stands in the log is msgpack: a class by its fields, tagged where another type might have stood."""
    codec = ValueCodec[Any](kind)
    assert codec.encode(value) == msgpack.packb(plain)
    assert codec.decode(codec.encode(value)) == value


def test_encode_golden_command() -> None:
    """The bytes of a command in a log file are the same for ever."""
    expected = "92a341646481a6616d6f756e74cd012c"
    assert ValueCodec[Add](Add).encode(Add(300)).hex() == expected


def test_encode_bytes_is_identity() -> None:
    """Commands of type bytes are neither wrapped nor copied."""
    command = b"anything"
    codec = ValueCodec[bytes](bytes)
    assert codec.encode(command) is command
    assert codec.decode(command) is command


def test_encode_same_set_same_bytes() -> None:
    """Equal commands have equal bytes, whatever order their sets happen to have."""
    codec = ValueCodec[frozenset[int]](frozenset[int])
    # 0 and 8 share a slot of a small set, so that their order is that of their coming.
    assert codec.encode(frozenset([0, 8])) == codec.encode(frozenset([8, 0]))


def test_decode_what_one_class_wrote_as_a_union() -> None:
    """A log written when there was one class of commands is read when there are two."""
    data = ValueCodec[Add](Add).encode(Add(3))
    assert ValueCodec[Add | Put](Add | Put).decode(data) == Add(3)


def test_decode_field_that_was_added_with_a_default() -> None:
    """A field that an old command lacks takes its default."""
    data = msgpack.packb(["Put", {"key": "k", "value": b"v"}])
    assert ValueCodec[Put](Put).decode(data) == Put(Name("k"), b"v", Unit.EURO)


UPGRADE = "this node runs older code than the one that wrote it; upgrade it"


@attrs.frozen
class Envelope:
    inner: Put
    either: Add | Put | None = None
    many: tuple[Add, ...] = ()


@pytest.mark.parametrize(
    ("kind", "plain", "problem"),
    [
        (
            Put,
            ["Put", {"key": "k", "value": b"v", "upper": True}],
            f"the command carries the field 'upper', which Put does not have: {UPGRADE}",
        ),
        (
            Envelope,
            ["Envelope", {"inner": {"key": "k", "value": b"v", "upper": True}}],
            f"the command carries the field 'upper', which Put does not have: {UPGRADE}",
        ),
        (
            Envelope,
            ["Envelope", {"inner": {"key": "k", "value": b"v"}, "either": ["Add", {"amount": 1, "twice": True}]}],
            f"the command carries the field 'twice', which Add does not have: {UPGRADE}",
        ),
        (
            Envelope,
            ["Envelope", {"inner": {"key": "k", "value": b"v"}, "many": [{"amount": 1}, {"amount": 1, "x": 0}]}],
            f"the command carries the field 'x', which Add does not have: {UPGRADE}",
        ),
        (
            Add | Put,
            ["Remove", {"key": "k"}],
            f"the command is of class 'Remove', which is none of Add, Put: {UPGRADE}",
        ),
        (
            Put,
            ["Put", {"key": "k"}],
            "the command lacks the field 'value' of Put: older code wrote it; give every new field a default",
        ),
    ],
)
def test_decode_what_other_code_wrote(kind: Any, plain: object, problem: str) -> None:
    """What other code wrote is refused in words, at whatever depth: dropping a field would diverge the replicas."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        ValueCodec[Any](kind).decode(msgpack.packb(plain))


class _Store(StateMachine[Put, None]):
    def apply(self, entry: Committed[Put]) -> None:
        raise AssertionError("nothing that was not understood is applied")


async def test_apply_stops_at_what_newer_code_wrote(autojump_clock: MockClock) -> None:
    """A node that lacks a field of a committed command stops there, with index and term, and applies nothing (X4)."""
    data = msgpack.packb(["Put", {"key": "k", "value": b"v", "upper": True}])
    async with trio.open_nursery() as nursery:
        server = await make_server(config=make_config(members=(N1,)))
        nursery.start_soon(server.journal.run)
        lead_term(server, 1)
        server.submit_nowait(data)
        with pytest.raises(StateMachineError, match="carries the field 'upper', which Put does not have") as caught:
            await Applier(server, _Store(), ValueCodec[Put](Put)).run()
        nursery.cancel_scope.cancel()
    assert (caught.value.index, caught.value.term) == (2, 1)


def test_round_trip_every_kind_of_field() -> None:
    """Every kind of field that is allowed comes back equal, and of the same type."""
    codec = ValueCodec[Everything](Everything)
    back = codec.decode(codec.encode(EVERYTHING))
    assert back == EVERYTHING
    for field in attrs.fields(Everything):
        assert type(getattr(back, field.name)) is type(getattr(EVERYTHING, field.name))


@hypothesis.given(
    value=st.builds(
        Everything,
        text=st.text(),
        data=st.binary(),
        flag=st.booleans(),
        number=st.integers(-(1 << 63), (1 << 64) - 1),
        real=st.floats(allow_nan=False),
        unit=st.sampled_from(Unit),
        level=st.sampled_from(Level),
        colour=st.just(Colour.RED),
        nested=st.builds(Put, st.text(), st.binary()),
        either=st.one_of(st.builds(Add, st.integers(0, 9)), st.builds(Put, st.text(), st.binary()), st.none()),
        simple=st.one_of(st.integers(0, 9), st.text(), st.none()),
        many=st.lists(st.builds(Put, st.text(), st.binary()), max_size=3).map(tuple),
        pair=st.tuples(st.integers(0, 9), st.text()),
        numbers=st.lists(st.integers(0, 9)),
        names=st.frozensets(st.text()),
        by_name=st.dictionaries(st.text(), st.builds(Add, st.integers(0, 9)), max_size=3),
        by_number=st.dictionaries(st.integers(-9, 9), st.lists(st.floats(allow_nan=False)).map(tuple), max_size=3),
    )
)
def test_round_trip_any_value(value: Everything) -> None:
    """Any value of its declared type survives."""
    codec = ValueCodec[Everything](Everything)
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("value", [-(1 << 63), (1 << 64) - 1])
def test_integer_range_ends(value: int) -> None:
    """Signed 64-bit integers and unsigned ones both fit."""
    codec = ValueCodec[int](int)
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 5e-324])
def test_float_any(value: float) -> None:
    """Any float is a value, NaN and the infinities too."""
    codec = ValueCodec[float](float)
    back = codec.decode(codec.encode(value))
    assert back == value or (math.isnan(back) and math.isnan(value))


# ------------------------------------------------------------------------------------ values that do not fit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 5),
        ("text", b"x"),
        ("text", None),
        ("text", Unit.EURO),
        ("data", "x"),
        ("data", bytearray(b"x")),
        ("data", 5),
        ("flag", 1),
        ("number", True),
        ("number", 1.0),
        ("number", Level.LOW),
        ("real", 1),
        ("unit", "eur"),
        ("level", 1),
        ("colour", "red"),
        ("text", Colour.RED),
        ("nested", Add(1)),
        ("nested", None),
        ("either", 1),
        ("either", EVERYTHING),
        ("simple", True),
        ("simple", b"x"),
        ("many", [Put(Name("a"), b"1")]),
        ("many", (Add(1),)),
        ("many", "abc"),
        ("pair", [1, "one"]),
        ("pair", ("one", 1)),
        ("numbers", (1,)),
        ("numbers", [True]),
        ("names", {"x"}),
        ("names", "xy"),
        ("by_name", [("n", Add(1))]),
        ("by_name", {5: Add(1)}),
        ("by_number", {7: [1.5]}),
    ],
)
def test_encode_wrong_type(field: str, value: object) -> None:
    """A field of another type than declared raises TypeError that names it, before anything is queued (W5)."""
    command = changed(EVERYTHING, field, value)
    with pytest.raises(TypeError, match=rf"^Everything\.{field}"):
        ValueCodec[Everything](Everything).encode(command)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 1 << 64),
        ("number", -(1 << 63) - 1),
        ("text", "\ud800"),
        ("pair", (1, "one", 2)),
        ("numbers", [1 << 64]),
    ],
)
def test_encode_wrong_value(field: str, value: object) -> None:
    """A value of the right type that msgpack cannot hold raises ValueError that names the field (W5)."""
    command = changed(EVERYTHING, field, value)
    with pytest.raises(ValueError, match=rf"^Everything\.{field}"):
        ValueCodec[Everything](Everything).encode(command)


def test_encode_names_the_path() -> None:
    """An error deep inside names every field on the way."""
    command = attrs.evolve(EVERYTHING, nested=Put(Name("k"), 5))  # type: ignore[arg-type]
    with pytest.raises(TypeError) as caught:
        ValueCodec[Everything](Everything).encode(command)
    assert str(caught.value) == "Everything.nested → Put.value: expected bytes, got 5 (int)"


@pytest.mark.parametrize("value", [Put(Name("k"), b"v"), 3, None, "Add"])
def test_encode_another_class(value: object) -> None:
    """A command of another type than the machine's raises TypeError (W5)."""
    with pytest.raises(TypeError, match=r"^expected Add, got"):
        ValueCodec[Any](Add).encode(value)


def test_encode_subclass() -> None:
    """A subclass is another type: what it adds would be lost."""

    @attrs.frozen
    class AddMore(Add):
        more: int

    with pytest.raises(TypeError, match="expected Add, got AddMore"):
        ValueCodec[Add](Add).encode(AddMore(1, 2))


@pytest.mark.parametrize("kind", [bytes, int, str])
def test_encode_primitive_of_another_type(kind: type) -> None:
    """A primitive command of another type raises TypeError, a bool for an int too (W5)."""
    with pytest.raises(TypeError, match=rf"^expected {kind.__name__}, got True"):
        ValueCodec[Any](kind).encode(True)


# --------------------------------------------------------------------------------------- bytes that do not fit


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb({"amount": 3}),
        msgpack.packb(["Add"]),
        msgpack.packb(["Add", {"amount": 3}, 4]),
        msgpack.packb(["Add", {"amount": "3"}]),
        msgpack.packb(["Add", {"amount": True}]),
        msgpack.packb(["Add", [3]]),
        msgpack.packb([5, {"amount": 3}]),
        msgpack.packb([["Add"], {"amount": 3}]),
        msgpack.packb(["Add", {"amount": 3}]) + b"\x00",
    ],
)
def test_decode_what_was_never_encoded(data: bytes) -> None:
    """Bytes that are no value of the type raise ValueError that names the type, whatever is wrong with them (W5)."""
    with pytest.raises(ValueError, match="these bytes are no value of type Add"):
        ValueCodec[Add](Add).decode(data)


@pytest.mark.parametrize("kind", [Unit, Level, Colour])
@pytest.mark.parametrize("plain", [3, 1.0, True, "blue", None, ["red"]])
def test_decode_no_member_of_an_enum(kind: Any, plain: object) -> None:
    """Only a member's own value decodes to the member, of a mixed enum too (W5)."""
    with pytest.raises(ValueError, match="these bytes are no value"):
        ValueCodec[Any](kind).decode(msgpack.packb(plain))


def test_decode_names_the_field() -> None:
    """The error names the field that does not fit."""
    with pytest.raises(ValueError, match="amount"):
        ValueCodec[Add](Add).decode(msgpack.packb(["Add", {"amount": "3"}]))


@hypothesis.given(data=st.binary(max_size=100))
def test_decode_any_bytes(data: bytes) -> None:
    """Any bytes are a value or a ValueError, never another exception."""
    try:
        ValueCodec[Any](Everything).decode(data)
    except ValueError as error:
        assert "Everything" in str(error)  # noqa: PT017  # either outcome is right


# ------------------------------------------------------------------------------------ types that are refused


class _Plain:
    pass


@attrs.frozen
class _Recursive:
    inner: "_Recursive | None"


@attrs.frozen
class _WithDate:
    when: datetime.datetime


def _another_add() -> type:
    @attrs.frozen
    class Add:
        amount: int

    return Add


@pytest.mark.parametrize(
    "kind",
    [
        Any,
        object,
        list,
        dict,
        set[int],
        complex,
        _Plain,
        _WithDate,
        _Recursive,
        dict[float, int],
        dict[tuple[int, ...], int],
        Unit | None,
        list[int] | None,
        Add | _another_add(),
    ],
)
def test_make_codec_of_an_unsuitable_type(kind: Any) -> None:
    """A type that could not be encoded, or not be told apart, is refused when the codec is made."""
    with pytest.raises(TypeError):
        ValueCodec[Any](kind)

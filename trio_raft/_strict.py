"""A cattrs converter that structures plain data without coercing any of it.

cattrs coerces by default: an int in a bytes field becomes that many zero bytes, "false" becomes True, and "abc" in
a tuple of server ids becomes three voters.  Here a value either has the type that the field names or it is refused,
and integers and floats must be in the range that the caller states.

House rule: every hook compares ``type(value)`` exactly; ``isinstance`` would let a bool pass for an int.
"""

import enum
import functools
import math
import reprlib
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, get_args, get_origin

import attrs
import cattrs

Structure = Callable[[Any, Any], Any]
EnumT = TypeVar("EnumT", bound=enum.Enum)


@attrs.frozen(kw_only=True)
class Numbers:
    """Which numbers a converter lets through."""

    lowest: int
    highest: int
    """The largest integer, itself included."""
    finite: bool
    """Whether infinities and NaN are refused."""


def strict_converter(numbers: Numbers, *, detailed: bool) -> cattrs.Converter:
    """A converter for attrs classes made of primitives, enums, and tuples, lists, frozensets and mappings of these.

    Structuring raises TypeError or ValueError for what does not fit, or, with ``detailed``, a group of errors that
    ``cattrs.transform_error`` translates into lines with the path of each field; that costs more.
    """
    converter = cattrs.Converter(detailed_validation=detailed)
    for primitive in (str, bytes, bool, types.NoneType):
        converter.register_structure_hook(primitive, _exactly(primitive))
    converter.register_structure_hook(int, _integer(numbers))
    converter.register_structure_hook(float, _float(numbers))
    converter.register_structure_hook_factory(_is_enum, _enum)
    for matches, factory in (
        (_is_tuple, _tuple_factory),
        (_is_list, _list_factory),
        (_is_frozenset, _frozenset_factory),
        (_is_mapping, _mapping_factory),
    ):
        converter.register_structure_hook_factory(matches, factory)
    return converter


def require(value: object, expected: type) -> None:
    """Raise TypeError unless ``value`` is of exactly that type."""
    if type(value) is not expected:
        # reprlib: the value may be as large as a frame, and the text ends in a log.
        raise TypeError(f"expected {expected.__name__}, got {reprlib.repr(value)} ({type(value).__name__})")


def require_integer(value: object, numbers: Numbers) -> None:
    """Raise unless ``value`` is an int, not a bool, within the range."""
    require(value, int)
    if not numbers.lowest <= value <= numbers.highest:  # type: ignore[operator]
        raise ValueError(f"expected an integer from {numbers.lowest} to {numbers.highest}, got {value}")


# cattrs finds hooks of classes by inheritance: an IntEnum or StrEnum arrives at the hook of int or str, which passes
# it on; it would stay a bare number or text otherwise.


def _exactly(expected: type) -> Structure:
    def hook(value: Any, kind: Any) -> Any:
        if type(value) is not expected:
            require(value, expected)
        return _enum(kind)(value, kind) if isinstance(kind, enum.EnumType) else value

    return hook


def _integer(numbers: Numbers) -> Structure:
    lowest, highest = numbers.lowest, numbers.highest

    def hook(value: Any, kind: Any) -> Any:
        if type(value) is not int or not lowest <= value <= highest:
            require_integer(value, numbers)
        return _enum(kind)(value, kind) if isinstance(kind, enum.EnumType) else value

    return hook


def _float(numbers: Numbers) -> Structure:
    def hook(value: Any, _: Any) -> Any:
        require(value, float)
        if numbers.finite and not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        return value

    return hook


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, enum.EnumType)


@functools.cache
def _enum(kind: type[EnumT]) -> Structure:
    # Keyed by type too: True and 1.0 are equal to 1, but they are not the number of a member.
    members: dict[tuple[Any, Any], EnumT] = {(type(member.value), member.value): member for member in kind}

    def hook(value: Any, _: Any) -> EnumT:
        member = members.get((cast("Any", type(value)), value))
        if member is None:
            raise ValueError(f"{reprlib.repr(value)} is not a value of {kind.__name__}")
        return member

    return hook


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    arguments = get_args(kind)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence_factory(tuple, arguments[0], converter)
    parts = [(converter.get_structure_hook(argument), argument) for argument in arguments]

    def hook(value: Any, _: Any) -> Any:
        require(value, list)
        if len(value) != len(parts):
            raise ValueError(f"expected {len(parts)} items, got {len(value)}")
        return tuple([part(item, argument) for (part, argument), item in zip(parts, value, strict=True)])

    return hook


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _list_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    return _sequence_factory(list, get_args(kind)[0], converter)


def _is_frozenset(kind: Any) -> bool:
    return get_origin(kind) is frozenset


def _frozenset_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    return _sequence_factory(frozenset, get_args(kind)[0], converter)


def _sequence_factory(build: Callable[[list[Any]], Any], item_kind: Any, converter: cattrs.Converter) -> Structure:
    structure_item = converter.get_structure_hook(item_kind)

    def hook(value: Any, _: Any) -> Any:
        require(value, list)
        return build([structure_item(item, item_kind) for item in value])

    return hook


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping)


def _mapping_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    key_kind, value_kind = get_args(kind)
    structure_key = converter.get_structure_hook(key_kind)
    structure_value = converter.get_structure_hook(value_kind)

    def hook(value: Any, _: Any) -> Any:
        require(value, dict)
        return {structure_key(key, key_kind): structure_value(item, value_kind) for key, item in value.items()}

    return hook

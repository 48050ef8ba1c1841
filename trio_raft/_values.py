"""Commands as bytes: a typed codec for what users propose.

``bytes`` are passed through.  Everything else becomes msgpack by the rules of its declared type: an attrs class is a
map of its fields by name; where one of several types may stand, and for the command itself, an attrs class is tagged
with its name, ``["Add", {"amount": 1}]``.  So a log that was written when there was one class of commands can still
be read when there are three; a class or a field that is renamed is another one, and a new field needs a default.

Decoding refuses a field or a class that this version does not know: a node of older code that dropped it would apply
another command than the others do, and nobody would notice.  It stops instead, until it is upgraded.

A value is checked against its type *before* it is proposed, field by field and without coercion: what does not fit
raises at the caller, instead of stopping every server when the entry is applied.

House rule: no type is guessed.  What is not listed in ``_encoder`` is refused when the codec is made.
"""

import enum
import types
from collections.abc import Callable, Mapping
from typing import Any, Generic, NewType, TypeVar, Union, cast, get_args, get_origin

import attrs
import cattrs
import msgpack

from trio_raft._errors import leaves
from trio_raft._strict import Numbers, Structure, require, require_integer, strict_converter

T = TypeVar("T")
Encode = Callable[[Any], Any]

_NUMBERS = Numbers(lowest=-(1 << 63), highest=(1 << 64) - 1, finite=False)
# What msgpack can hold.

_PRIMITIVES = (str, bytes, bool, int, float, types.NoneType)
_KEYS = (str, bytes, int)

_OLDER_CODE = "this node runs older code than the one that wrote it; upgrade it"


class ValueCodec(Generic[T]):
    """Encodes and decodes values of one declared type.

    The type is ``bytes``, another primitive, an enum, an attrs class, a union of attrs classes and primitives, or a
    tuple, list, frozenset, dict or Mapping of these.  Raises TypeError for any other, and for a class that contains
    itself.
    """

    def __init__(self, kind: Any) -> None:
        self.is_plain = kind is bytes
        """Are the bytes of a value that value?"""
        # A lone attrs class is a union of one: it gets its tag.
        members = (kind,) if attrs.has(kind) else None
        self._encode = _union_encoder(members, ()) if members else _encoder(kind, ())
        converter = strict_converter(_NUMBERS, detailed=True)
        converter.register_structure_hook_factory(_is_class, _class_structure_factory)
        converter.register_structure_hook_factory(_is_union, _union_structure_factory)
        self._structure = _union_structure(members, converter) if members else converter.get_structure_hook(kind)
        self._kind = kind
        # Bytes stay as they are, and pass here once per command: so they take no step more than that needs.
        self.encode: Callable[[T], bytes] = cast("Any", _as_bytes) if kind is bytes else self._encode_value
        """The value's bytes.

        Raises TypeError or ValueError, naming the field, for a value that is not of the declared type, an integer
        outside -2^63 … 2^64 - 1, or text that is no Unicode (a lone surrogate).
        """
        self.decode: Callable[[bytes], T] = cast("Any", _as_bytes) if kind is bytes else self._decode_value
        """The value that was encoded.

        Raises ValueError for bytes that are no value of the declared type: what other code wrote, with a field or a
        class that this one lacks, or without a field that has no default, is none.
        """

    def _encode_value(self, value: T) -> bytes:
        try:
            return msgpack.packb(self._encode(value))
        except _Misfit as misfit:
            raise type(misfit.problem)(f"{misfit.path}: {misfit.problem}") from misfit.problem

    def _decode_value(self, data: bytes) -> T:
        try:
            plain = msgpack.unpackb(data, strict_map_key=False)
            return cast("T", self._structure(plain, self._kind))
        except Exception as error:
            for leaf in leaves(error):
                if isinstance(leaf, _OtherCode):
                    raise ValueError(str(leaf)) from error
            problems = "; ".join(cattrs.transform_error(error, path=_name(self._kind)))
            raise ValueError(f"these bytes are no value of type {_name(self._kind)}: {problems}") from error


def _as_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        require(value, bytes)
    return value  # type: ignore[no-any-return]  # the line before has made sure


class _Misfit(Exception):
    """A field holds what its type does not allow; the path grows on the way out."""

    def __init__(self, problem: TypeError | ValueError, path: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path


class _OtherCode(ValueError):
    """The value is sound, but other code than this wrote it; the text says all there is to say."""


def _encoder(kind: Any, enclosing: tuple[type, ...]) -> Encode:
    """How a value of that type becomes plain data.  ``enclosing``: the attrs classes that it is a part of."""
    while isinstance(kind, NewType):
        kind = kind.__supertype__
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is None or kind in _PRIMITIVES:
        return _primitive_encoder(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enum_encoder(kind)
    if _is_class(kind):
        return _class_encoder(cast("Any", kind), enclosing)
    if _is_union(kind):
        return _union_encoder(arguments, enclosing)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return _fixed_tuple_encoder([_encoder(argument, enclosing) for argument in arguments])
    if origin in (tuple, list, frozenset):
        return _sequence_encoder(origin, _encoder(arguments[0], enclosing))
    if origin in (dict, Mapping):
        if _strip(arguments[0]) not in _KEYS:
            raise TypeError(f"{_name(kind)}: keys must be str, bytes or int")
        return _mapping_encoder(_encoder(arguments[0], enclosing), _encoder(arguments[1], enclosing))
    raise TypeError(
        f"{_name(kind)} cannot be encoded: use bytes, attrs classes, primitives, enums, or tuples, lists, frozensets "
        f"and dicts of these, with their item types"
    )


def _primitive_encoder(kind: Any) -> Encode:
    if kind is int:

        def encode_integer(value: Any) -> Any:
            require_integer(value, _NUMBERS)
            return value

        return encode_integer

    def encode(value: Any) -> Any:
        require(value, kind or types.NoneType)
        return value

    def encode_text(value: Any) -> Any:
        require(value, str)
        if not value.isascii():
            value.encode()  # Raises here, where the field has a name, what would be raised without one later.
        return value

    return encode_text if kind is str else encode


def _enum_encoder(kind: type[enum.Enum]) -> Encode:
    for member in kind:
        if type(member.value) not in _KEYS:
            raise TypeError(f"{_name(kind)}: the values of an enum must be str, bytes or int")

    def encode(value: Any) -> Any:
        require(value, kind)
        return value.value

    return encode


def _class_encoder(kind: type, enclosing: tuple[type, ...]) -> Encode:
    if kind in enclosing:
        # However deep a value is nested, every server must be able to decode what one could encode.
        raise TypeError(f"{_name(kind)} contains itself: give commands a fixed depth")
    attrs.resolve_types(kind)
    fields = [(field.name, _encoder(field.type, (*enclosing, kind))) for field in attrs.fields(kind) if field.init]

    def encode(value: Any) -> dict[str, Any]:
        require(value, kind)
        plain: dict[str, Any] = {}
        for name, encode_field in fields:
            try:
                plain[name] = encode_field(getattr(value, name))
            except (TypeError, ValueError) as problem:
                raise _Misfit(_plain_error(problem), f"{kind.__name__}.{name}") from None
            except _Misfit as misfit:
                misfit.path = f"{kind.__name__}.{name} → {misfit.path}"
                raise
        return plain

    return encode


def _union_encoder(members: tuple[Any, ...], enclosing: tuple[type, ...]) -> Encode:
    encoders = {member: (attrs.has(member), _encoder(member, enclosing)) for member in _checked_members(members)}

    def encode(value: Any) -> Any:
        found = encoders.get(cast("Any", type(value)))
        if found is None:
            expected = " or ".join(_name(member) for member in encoders)
            raise TypeError(f"expected {expected}, got {type(value).__name__}")
        tagged, encode_member = found
        return [type(value).__name__, encode_member(value)] if tagged else encode_member(value)

    return encode


def _fixed_tuple_encoder(parts: list[Encode]) -> Encode:
    def encode(value: Any) -> list[Any]:
        require(value, tuple)
        if len(value) != len(parts):
            raise ValueError(f"expected {len(parts)} items, got {len(value)}")
        return [part(item) for part, item in zip(parts, value, strict=True)]

    return encode


def _sequence_encoder(kind: type, encode_item: Encode) -> Encode:
    def encode(value: Any) -> list[Any]:
        require(value, kind)
        plain = [encode_item(item) for item in value]
        # The order of a set is chance; equal commands have equal bytes.
        return sorted(plain, key=msgpack.packb) if kind is frozenset else plain

    return encode


def _mapping_encoder(encode_key: Encode, encode_item: Encode) -> Encode:
    def encode(value: Any) -> dict[Any, Any]:
        require(value, dict)
        return {encode_key(key): encode_item(item) for key, item in value.items()}

    return encode


# ------------------------------------------------------------------------------------------------ classes


def _is_class(kind: Any) -> bool:
    return attrs.has(kind)


def _class_structure_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    """cattrs drops the fields that a class does not have: refuse them, and say in words which one is missing."""
    structure_known = converter.gen_structure_attrs_fromdict(kind)
    fields = [field for field in attrs.fields(kind) if field.init]
    known = frozenset(field.name for field in fields)
    required = [field.name for field in fields if field.default is attrs.NOTHING]

    def structure(value: Any, _: Any) -> Any:
        require(value, dict)
        if value.keys() != known:
            for name in value:
                if name not in known:
                    raise _OtherCode(
                        f"the command carries the field {name!r}, which {_name(kind)} does not have: {_OLDER_CODE}"
                    )
            for name in required:
                if name not in value:
                    raise _OtherCode(
                        f"the command lacks the field {name!r} of {_name(kind)}: older code wrote it; "
                        f"give every new field a default"
                    )
        return structure_known(value, kind)

    return structure


# ------------------------------------------------------------------------------------------------ unions


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _checked_members(members: tuple[Any, ...]) -> list[type]:
    """The union's members: told apart by their exact type, and attrs classes on the wire by their names."""
    checked = [_strip(member) for member in members]
    for member in checked:
        if not attrs.has(member) and member not in _PRIMITIVES:
            raise TypeError(f"{_name(member)} in a union: only attrs classes and primitives can be told apart")
    tags = [member.__name__ for member in checked if attrs.has(member)]
    if len(set(tags)) != len(tags):
        raise TypeError(f"classes in a union must have different names, these are {', '.join(sorted(tags))}")
    return checked


def _union_structure_factory(kind: Any, converter: cattrs.Converter) -> Structure:
    return _union_structure(get_args(kind), converter)


def _union_structure(members: tuple[Any, ...], converter: cattrs.Converter) -> Structure:
    checked = _checked_members(members)
    tagged = {kind.__name__: (converter.get_structure_hook(kind), kind) for kind in checked if attrs.has(kind)}
    plain = {kind: converter.get_structure_hook(kind) for kind in checked if not attrs.has(kind)}
    names = ", ".join(tagged)

    def structure(value: Any, _: Any) -> Any:
        if tagged and type(value) is list:
            tag, fields = _pair(value)
            require(tag, str)
            if tag not in tagged:
                raise _OtherCode(f"the command is of class {tag!r}, which is none of {names}: {_OLDER_CODE}")
            structure_class, kind = tagged[tag]
            return structure_class(fields, kind)
        structure_plain = plain.get(cast("Any", type(value)))
        if structure_plain is None:
            raise ValueError(f"{type(value).__name__} is not a member of the union")
        return structure_plain(value, type(value))

    return structure


def _pair(value: Any) -> tuple[Any, Any]:
    tag, fields = value
    return tag, fields


def _strip(kind: Any) -> Any:
    """What a NewType stands for; cattrs and ``type()`` know only that."""
    while isinstance(kind, NewType):
        kind = kind.__supertype__
    return types.NoneType if kind is None else kind


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _plain_error(problem: TypeError | ValueError) -> TypeError | ValueError:
    """Subclasses of ValueError (UnicodeEncodeError) cannot be made again from a text."""
    return TypeError(str(problem)) if isinstance(problem, TypeError) else ValueError(str(problem))

"""Mistakes in settings: each is a ConfigurationError that names the path of the key, what stands there, what should.

Two ways lead to the classes of ``_config.py``.  A program calls them, with whatever it likes: the ``require_…`` are for
their own checks.  Or a file is read: ``structure`` makes them of plain data, and finds every mistake at once.

House rule: nothing is coerced, neither "1" to a number nor True to 1.
"""

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

import attrs
import cattrs
from cattrs.v import format_exception, transform_error

from trio_raft._errors import ConfigurationError, leaves

SettingsT = TypeVar("SettingsT")

# ------------------------------------------------------------------------------------------------ one value


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200
"""A whole table in the wrong place need not be told in full; an address is."""


def must_be(key: str, expected: str, value: object) -> ConfigurationError:
    """The error for a value that is not what is expected."""
    return ConfigurationError(key, f"must be {expected}, not {_REPR.repr(value)}")


def require(key: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise ConfigurationError unless it is of that type; ``expected`` says so in words."""
    if not isinstance(value, kind):
        raise must_be(key, expected, value)


def require_number(key: str, value: object, *, whole: bool = False) -> None:
    """Raise ConfigurationError unless it is a number, of seconds if it need not be whole; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise must_be(key, "a whole number" if whole else "a number of seconds", value)


def require_settings(key: str, value: object, settings: type) -> None:
    """Raise ConfigurationError unless it is one of these settings; plain data is for ``structure``."""
    require(key, value, settings, f"trio_raft.{settings.__name__}(...) (Config.from_mapping takes plain tables)")


# ------------------------------------------------------------------------------------------------ plain data


def structure(table: Mapping[str, object], settings: type[SettingsT]) -> SettingsT:
    """Make settings of plain data.

    Raises ConfigurationError: its key is that of the first mistake, its text names every one that was found.
    """
    mistakes = _wrong_keys(table, settings)
    if mistakes:
        raise _one_error(mistakes)
    try:
        return _strict_converter().structure(table, settings)
    except ConfigurationError:
        raise
    except Exception as error:
        _raise_first_configuration_error(error)
        raise _one_error(_wrong_values(error)) from error


def _strict_converter() -> cattrs.Converter:
    """cattrs coerces by default: "false" would become True and "3" a number.  Refuse instead."""
    converter = cattrs.Converter(detailed_validation=True)

    def strictly(expected: type, *accepted: type):  # type: ignore[no-untyped-def]
        def hook(value: object, _: object) -> object:
            if type(value) not in accepted:
                raise ValueError(f"expected {expected.__name__}, got {value!r}")
            return expected(value)

        converter.register_structure_hook(expected, hook)

    strictly(int, int)
    strictly(float, float, int)
    strictly(str, str)
    strictly(bool, bool)
    converter.register_structure_hook(Path, lambda value, _: Path(converter.structure(value, str)))
    return converter


_Mistake = tuple[str, str]
"""The path of a key, and what is wrong with it."""


def _one_error(mistakes: list[_Mistake]) -> ConfigurationError:
    """All of them in one text: who corrects a file wants to do it once."""
    (key, problem), *others = mistakes
    return ConfigurationError(key, "; ".join([problem, *(f"{other}: {what}" for other, what in others)]))


def _wrong_keys(table: object, settings: type, prefix: str = "") -> list[_Mistake]:
    """The missing keys, then the unknown ones, then those of the tables inside."""
    if not isinstance(table, Mapping):
        return [(prefix.removesuffix("."), f"must be a table, not {table!r}")]
    given = cast("Mapping[str, object]", table)
    known = attrs.fields_dict(settings)
    mistakes = [
        (f"{prefix}{name}", "missing")
        for name, field in known.items()
        if field.default is attrs.NOTHING and name not in given
    ]
    mistakes += [(f"{prefix}{name}", _no_such_key(name, list(known))) for name in given if name not in known]
    for name, field in known.items():
        if name in given and field.type is not None and attrs.has(field.type):
            mistakes += _wrong_keys(given[name], field.type, f"{prefix}{name}.")
    return mistakes


def _no_such_key(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"no such key; did you mean {near[0]}?" if near else f"no such key; the keys are {', '.join(known)}"


def _wrong_values(error: Exception) -> list[_Mistake]:
    """What did not fit its type, from lines like ``expected int, got 'a' @ config.members['n4']``."""
    lines = transform_error(error, path="config", format_exception=_what_was_found)
    parts = [line.rpartition(" @ config") for line in lines]
    return [(path.removeprefix(".").replace("['", ".").replace("']", ""), problem) for problem, _, path in parts]


def _what_was_found(error: BaseException, expected: type | None) -> str:
    """The strict hooks say what they found; cattrs' own wording leaves that out."""
    if isinstance(error, AttributeError):
        return "must be a table"  # What is no mapping has no items.
    return str(error) if type(error) is ValueError else format_exception(error, expected)


def _raise_first_configuration_error(error: BaseException) -> None:
    """A relation that failed while a class was made keeps its own, clearer error."""
    for leaf in leaves(error):
        if isinstance(leaf, ConfigurationError):
            raise leaf

"""Configuration as text: TOML in, checked attrs objects out, and every mistake said in one way.

A mistake is always told as three things: *where* it stands, *what* is wrong, and what would be *right*. Readers are
strict, since a key that is misspelt and quietly ignored is a group that runs without the setting its owner wanted:
unknown keys are refused (with the nearest known one), and a value of another type is never converted.

A field of a configuration class may say in its metadata what would be right::

    port: int = attrs.field(metadata=right("a port between 1 and 65535"))

Files are read elsewhere; everything here works on strings.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard, TypeVar, cast

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

C = TypeVar("C")

Scalar: TypeAlias = str | int | bool
Value: TypeAlias = "Scalar | Sequence[str] | Sequence[Mapping[str, Value]] | Mapping[str, Value]"
"""What `to_toml` writes: scalars, lists of strings, tables, lists of tables."""

_RIGHT: Final = "right"
_KINDS: Final[Mapping[type, str]] = {
    int: "a whole number",
    str: 'a text in quotes, such as "m0"',
    bool: "true or false",
}


class ConfigurationError(ValueError):
    """A mistake in a configuration, for the person who can mend it.

    `where` names the file and the key, `wrong` says what is the matter, `suggestion` what would be right.
    """

    def __init__(self, where: str, wrong: str, suggestion: str) -> None:
        super().__init__(where, wrong, suggestion)
        self.where = where
        self.wrong = wrong
        self.suggestion = suggestion

    def __str__(self) -> str:
        return f"{self.where}: {self.wrong}; {self.suggestion}"

    def inside(self, place: str) -> ConfigurationError:
        """The same mistake, seen from outside: `place` is the file or table that `where` lies in."""
        return ConfigurationError(f"{place}: {self.where}" if self.where else place, self.wrong, self.suggestion)


class _Wrong(ValueError):
    """A value of the wrong kind, met deep inside; `structure` knows where."""

    def __init__(self, wrong: str, suggestion: str) -> None:
        super().__init__(wrong, suggestion)
        self.wrong = wrong
        self.suggestion = suggestion


def right(text: str) -> dict[str, str]:
    """The metadata of a field: what would be right, as the end of the sentence "give …"."""
    return {_RIGHT: text}


# ------------------------------------------------------------------------------------------------- reading


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises `ConfigurationError` with the line of the mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError("", f"this is not TOML: {error}", "mend that line; texts stand in quotes") from None
    except RecursionError:
        raise ConfigurationError("", "it is nested too deeply", "give tables and lists as they are described") from None


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(type(item) is str for item in cast("list[object]", value))


def _converter() -> cattrs.Converter:
    """Structures without converting: a text is never taken for a number, nor 1 for true."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind, words in _KINDS.items():

        def hook(value: Any, _: Any, kind: type = kind, words: str = words) -> Any:
            if type(value) is not kind:
                raise _Wrong(f"{shown(value)} is not {words}", f"give {words}")
            return value

        converter.register_structure_hook(kind, hook)

    def list_hook(value: Any, _: Any) -> tuple[str, ...]:
        if not _is_texts(value):
            raise _Wrong(f"{shown(value)} is not a list of texts", 'give a list of texts, such as ["a", "b"]')
        return tuple(value)

    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], list_hook)
    return converter


_CONVERTER: Final = _converter()


def structure(plain: object, cls: type[C]) -> C:
    """The object of an attrs class that this table describes. Raises `ConfigurationError` for the first mistake."""
    try:
        return _CONVERTER.structure(plain, cls)
    except (ClassValidationError, IterableValidationError) as error:
        raise _first_mistake(error, "", cls, "") from None


def _first_mistake(error: Exception, where: str, cls: type[Any] | None, suggestion: str) -> ConfigurationError:
    """The first leaf of the tree of errors that cattrs raises, in words. Unknown keys come before missing ones,
    because a misspelt key is usually both."""
    if isinstance(error, ConfigurationError):
        return error.inside(where) if where else error
    if isinstance(error, ClassValidationError):
        noted, plain = error.group_exceptions()
        for item in plain:
            if isinstance(item, ForbiddenExtraKeysError):
                return _unknown_key(item, where)
        for inner, note in noted:
            field = getattr(attrs.fields(error.cl), note.name)
            path = f"{where}.{note.name}" if where else note.name
            inside = note.type if isinstance(note.type, type) and attrs.has(note.type) else None
            hint = field.metadata.get(_RIGHT, "")
            if isinstance(inner, KeyError):
                return ConfigurationError(path, "the key is missing", f"give {hint or _kind_words(note.type)}")
            return _first_mistake(inner, path, inside, hint)
        return _first_mistake(plain[0], where, error.cl, suggestion)
    if isinstance(error, IterableValidationError):
        noted_items, plain = error.group_exceptions()
        if noted_items:
            inner, index = noted_items[0]
            return _first_mistake(inner, f"{where}[{index.index}]", None, suggestion)
        return _first_mistake(plain[0], where, cls, suggestion)
    if isinstance(error, _Wrong):
        return ConfigurationError(where, error.wrong, f"give {suggestion}" if suggestion else error.suggestion)
    # What is left: cattrs was given something that is no table or no list at all.
    return ConfigurationError(where, "the value has the wrong shape", f"give {suggestion or 'a table of keys'}")


def _unknown_key(error: ForbiddenExtraKeysError, where: str) -> ConfigurationError:
    unknown = sorted(error.extra_fields)[0]
    known = [field.name for field in attrs.fields(error.cl)]
    near = difflib.get_close_matches(unknown, known, 1)
    path = f"{where}.{unknown}" if where else unknown
    advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return ConfigurationError(path, "no such key", advice)


def _kind_words(kind: Any) -> str:
    if isinstance(kind, type) and attrs.has(kind):
        return "a table"
    return _KINDS.get(kind, "a list") if isinstance(kind, type) else "a list"


def shown(value: object) -> str:
    """A value as it may stand in a message: short, and never a whole file."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_range(where: str, value: int, lowest: int, highest: int) -> None:
    """Raises `ConfigurationError` unless the number is in the range, both ends included."""
    if not lowest <= value <= highest:
        raise ConfigurationError(where, f"{value} is out of range", f"give a number between {lowest} and {highest}")


def check_choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `ConfigurationError` unless the value is one of the choices."""
    if value not in choices:
        raise ConfigurationError(where, f"{value!r} is not known", f"give one of {', '.join(choices)}")


def hex_bytes(where: str, text: str, size: int, what: str) -> bytes:
    """The bytes of a hexadecimal text of exactly `size` bytes. Raises `ConfigurationError`."""
    try:
        data = bytes.fromhex(text) if text.isalnum() else None
    except ValueError:
        data = None
    if data is None or len(data) != size:
        raise ConfigurationError(
            where, f"{shown(text)} is not {what}", f"give {size} bytes as {2 * size} hexadecimal digits"
        )
    return data


# ------------------------------------------------------------------------------------------------- writing

_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'


def _scalar(value: Scalar) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _quoted(name)


def _strings(items: Sequence[str]) -> str:
    flat = "[" + ", ".join(map(_quoted, items)) + "]"
    if len(flat) <= 100:
        return flat
    return "[\n" + "".join(f"    {_quoted(item)},\n" for item in items) + "]"


def to_toml(table: Mapping[str, Value], comments: Mapping[str, str] | None = None, prefix: str = "") -> str:
    """The table as TOML text. `comments` maps a key's full path (``limits.batch_bytes_max``) to lines above it."""
    notes = comments or {}
    plain: list[str] = []
    nested: list[str] = []
    for name, value in table.items():
        path = f"{prefix}.{name}" if prefix else name
        note = "".join(f"# {line}\n" for line in notes.get(path, "").splitlines())
        heading = f"{prefix}.{_key(name)}" if prefix else _key(name)
        if isinstance(value, Mapping):
            nested.append(f"\n{note}[{heading}]\n" + to_toml(value, notes, path))
        elif isinstance(value, (str, int)):
            plain.append(f"{note}{_key(name)} = {_scalar(value)}\n")
        elif value and not isinstance(value[0], str):
            rows = cast("Sequence[Mapping[str, Value]]", value)
            nested.append(f"\n{note}" + "\n".join(f"[[{heading}]]\n" + to_toml(row, notes, path) for row in rows))
        else:
            plain.append(f"{note}{_key(name)} = {_strings(cast('Sequence[str]', value))}\n")
    return "".join(plain + nested)

"""Frozen records that turn into JSON and back: what studies, evaluations and benchmarks find."""

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

__all__ = ["Record", "plain", "rebuilt"]


@dataclass(frozen=True)
class Record:
    """The base of a dataclass that is written to a file of its own.

    Its fields are numbers, texts, tuples, dicts by text and further dataclasses of such, and each of them or `None`.
    """

    called: ClassVar[str]
    """What it is, for messages: "a study"."""
    format_version: ClassVar[int]
    """Counts what changes about its fields."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, numbers and texts, which JSON takes."""
        values = {one.name: plain(getattr(self, one.name)) for one in fields(self)}
        return {"format_version": self.format_version, **values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ValueError: an entry is missing, unknown or of another type, or the format is not known to this version.
        """
        entries = dict(data)
        version = entries.pop("format_version", None)
        if version != cls.format_version:
            raise ValueError(f"{cls.called} of format {version!r}: this version reads {cls.format_version}")
        found: Self = rebuilt(cls, entries, cls.called)
        return found


def plain(value: Any) -> Any:
    """Dataclasses to dicts and tuples to lists, through any nesting."""
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def rebuilt(kind: Any, value: Any, where: str) -> Any:
    """A value of JSON as the type that it was written from.

    Args:
        kind: that type.
        value: of JSON.
        where: the name of the field, for messages.

    Raises:
        ValueError: it is of another type.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        known = _types(kind)
        if not isinstance(value, dict) or set(value) != set(known):
            different = sorted(set(value) ^ set(known)) if isinstance(value, dict) else [type(value).__name__]
            raise ValueError(f"in {where}: {', '.join(different[:3])} missing or unknown")
        return kind(**{name: rebuilt(own, value[name], name) for name, own in known.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return _tuple(arguments, value, where)
    if origin is dict and isinstance(value, dict):
        return {name: rebuilt(arguments[1], one, where) for name, one in value.items()}
    if origin is types.UnionType:
        return None if value is None else rebuilt(arguments[0], value, where)
    if origin is Literal and value in arguments:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        called = kind.__name__ if isinstance(kind, type) else kind
        raise ValueError(f"{where} is {value!r:.40}, where a {called} belongs")
    return value


def _tuple(kinds: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    if kinds[1:] == (...,):
        if all(type(one) is kinds[0] for one in values):  # long curves of numbers
            return tuple(values)
        return tuple(rebuilt(kinds[0], one, where) for one in values)
    if len(values) != len(kinds):
        raise ValueError(f"{where} has {len(values)} entries, where {len(kinds)} belong")
    return tuple(rebuilt(kind, one, where) for kind, one in zip(kinds, values, strict=True))


@cache
def _types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}

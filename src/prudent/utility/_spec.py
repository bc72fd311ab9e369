"""Utilities as text: one short language for Python, configuration files and the command line.

The text is an expression in Python's grammar, so Python's own parser reads it; what the names mean is looked up here,
and nothing is evaluated.
"""

import ast
import difflib
import io
import re
import tokenize
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prudent.errors import UtilityError
from prudent.utility._combination import Combination
from prudent.utility._expression import Combined, Piped, Reward, Utility
from prudent.utility._names import COMBINATION_NAMES, SPELLINGS, STEP_NAMES
from prudent.utility._writing import NAMED_VALUES, Step

__all__ = ["parse_utility"]

_BREAKS = re.compile("\r\n|\r|\n")
"""Where Python begins a new line."""
_LARGEST = 10**300


def parse_utility(text: str | Utility) -> Utility:
    """The utility that a text describes.

    A reward by its name is piped through steps: `helpful | center(q=0.85) | log_sigmoid | lcb_std(1)`. A text that
    begins with a step means the only reward there is: `lcb_std(1)`. Combinations take utilities, then named arguments:
    `all_of(helpful | center | log_sigmoid, harmless | center | log_sigmoid, weights=[1, 2]) | mean`. Arguments are
    numbers (`inf` is one), words, quoted texts, `true`, `false`, or lists of numbers. Lines may be broken anywhere. A
    posterior at the end counts by its mean.

    Args:
        text: what to read; a utility is returned as it is.

    Raises:
        UtilityError: the text is not a utility; the message shows the place and what would do.

    Example:
        >>> utility = parse_utility("all_of(a | centre(q=0.5) | log_sigmoid, b | center | log_sigmoid)|lcb_std(2.0)")
        >>> str(utility)
        'all_of(a | center(q=0.5) | log_sigmoid, b | center | log_sigmoid) | lcb_std(2)'
        >>> parse_utility(str(utility)) == utility
        True
        >>> parse_utility("helpful | log_sigmoid")
        Traceback (most recent call last):
        ...
        prudent.errors.UtilityError: log_sigmoid takes a centered reward, and is given a reward; center it first
          helpful | log_sigmoid
                    ^
    """
    if isinstance(text, Utility):
        return text
    return _Reader(text).utility()


class _Reader:
    """Reads one text."""

    def __init__(self, text: str) -> None:
        self._lines = _BREAKS.split(text)
        self._text = "\n".join(self._lines)

    def utility(self) -> Utility:
        if not self._text.strip():
            raise UtilityError("the utility is empty; 'mean' is the simplest")
        self._check_tokens()
        try:
            # in parentheses lines may be broken anywhere
            tree = ast.parse(f"(\n{self._text}\n)", mode="eval").body
        except SyntaxError as error:
            raise self._syntax(error) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise UtilityError(f"the utility cannot be read: {error}") from None
        return self._node(tree)

    def _check_tokens(self) -> None:
        """Refuse what the parentheses around the text would hide: one closed too early, and comments."""
        depth = 0
        try:
            for token in tokenize.generate_tokens(io.StringIO(f"(\n{self._text}\n)").readline):
                line, column = token.start
                if token.type == tokenize.COMMENT:
                    raise self._pointed("a utility has no comments", self._lines[line - 2], column)
                if token.type == tokenize.OP:
                    depth += (token.string in "([{") - (token.string in ")]}")
                    if depth == 0 and line - 2 < len(self._lines):
                        raise self._pointed("this was never opened", self._lines[line - 2], column)
        except (tokenize.TokenError, SyntaxError, ValueError):
            return  # the parser says what is wrong

    def _node(self, node: ast.expr) -> Utility:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._piped(node)
        if isinstance(node, ast.Name):
            name = _spelled(node.id)
            if name in STEP_NAMES:
                return self._after(Reward(), node)
            if name in COMBINATION_NAMES:
                raise self._error(f"{name} combines several utilities: write {name}(a, b)", node)
            if node.id in NAMED_VALUES:
                raise self._error(f"{node.id} is not the name of a reward", node)
            try:
                return Reward(node.id)
            except ValueError as error:
                raise self._error(str(error), node) from None
        if isinstance(node, ast.Call):
            name = self._called(node)
            if name in COMBINATION_NAMES:
                return self._combined(name, node)
            if name in STEP_NAMES:
                return self._after(Reward(), node)
            raise self._unknown(name, node, (*STEP_NAMES, *COMBINATION_NAMES))
        if isinstance(node, ast.BinOp):
            raise self._error(
                "rewards are combined by name, such as weighted(a, b, weights=[1, 2]) or all_of(a, b), not by "
                "arithmetic",
                node,
            )
        if isinstance(node, ast.Tuple):
            raise self._error("several utilities where one is meant; combine them, such as all_of(a, b)", node)
        raise self._error("this is neither a reward, a step nor a combination", node)

    def _piped(self, node: ast.BinOp) -> Utility:
        return self._after(self._node(node.left), node.right)

    def _after(self, source: Utility, node: ast.expr) -> Utility:
        step = self._step(node)
        try:
            return Piped(source, step)
        except ValueError as error:
            raise self._error(str(error), node) from None

    def _step(self, node: ast.expr) -> Step:
        if isinstance(node, ast.Name):
            name, arguments, keywords = _spelled(node.id), [], []
        elif isinstance(node, ast.Call):
            name, arguments, keywords = self._called(node), node.args, node.keywords
        else:
            raise self._error("what follows | must be a step, such as lcb_std(1)", node)
        if name in COMBINATION_NAMES:
            raise self._error(f"{name} is a combination, which takes the utilities as arguments: {name}(a, b)", node)
        if name not in STEP_NAMES:
            raise self._unknown(name, node, tuple(STEP_NAMES))
        kind = STEP_NAMES[name]
        names = [one.name for one in fields(kind)]
        if len(arguments) > len(names):
            raise self._error(
                f"{name} takes {f'at most {len(names)} arguments' if names else 'no arguments'}", arguments[len(names)]
            )
        given = [(names[place], value) for place, value in enumerate(arguments)]
        step: Step = self._built(kind, [*given, *self._keywords(kind, keywords, node)], node)
        return step

    def _combined(self, name: str, node: ast.Call) -> Utility:
        kind = COMBINATION_NAMES[name]
        if not node.args:
            raise self._error(f"{name} needs the utilities that it combines: {name}(a, b)", node)
        parts = tuple(self._node(one) for one in node.args)
        combination: Combination = self._built(kind, self._keywords(kind, node.keywords, node), node)
        try:
            return Combined(combination, parts)
        except ValueError as error:
            # the message names the part by its number: point at it
            place = next((int(word) for word in str(error).split() if word.isdigit()), 0)
            at = node.args[place - 1] if str(error).startswith("part ") and 0 < place <= len(parts) else node
            raise self._error(str(error), at) from None

    def _called(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Name):
            raise self._error("this is neither a step nor a combination", node)
        return _spelled(node.func.id)

    def _keywords(self, kind: type[Any], keywords: list[ast.keyword], node: ast.expr) -> list[tuple[str, ast.expr]]:
        names = [one.name for one in fields(kind)]
        for one in keywords:
            if one.arg is None:
                raise self._error("** is not understood here", node)
            if one.arg not in names:
                what = f"{kind.name} has no argument {one.arg!r}"
                known = f"it takes {', '.join(names)}" if names else "it takes none"
                raise self._error(f"{what}; {known}{_guess(one.arg, names)}", one)
        return [(one.arg, one.value) for one in keywords if one.arg is not None]

    def _built(self, kind: type[Any], given: list[tuple[str, ast.expr]], node: ast.expr) -> Any:
        hints = get_type_hints(kind)
        values: dict[str, Any] = {}
        for name, value in given:
            if name in values:
                raise self._error(f"{kind.name} is given {name} twice", value)
            values[name] = self._value(name, kind, value, hints)
        try:
            return kind(**values)
        except ValueError as error:
            # the message names an argument: point at that one, or at the only one
            named = [value for name, value in given if re.search(rf"\b{name}\b", str(error))]
            raise self._error(str(error), next(iter(named or [value for _, value in given]), node)) from None
        except TypeError:
            lacking = [one.name for one in fields(kind) if one.name not in values and _is_needed(kind, one.name)]
            raise self._error(f"{kind.name} needs {', '.join(lacking)}", node) from None

    def _value(self, name: str, kind: type[Any], node: ast.expr, hints: dict[str, Any]) -> Any:
        what = f"{name} of {kind.name}"
        value = self._literal(what, node)
        allowed = _kinds_of_values(hints[name])
        for one in allowed:
            if _is_of_kind(value, one):
                return float(value) if one is float else value
        if value == "strength":
            raise self._error(
                f"{what} is a number to be chosen: give numbers to try to `prudent utility --strengths`, or write one",
                node,
            )
        others = [
            one.name
            for one in fields(kind)
            if isinstance(value, float)
            and any(_is_of_kind(value, other) for other in _kinds_of_values(hints[one.name]))
        ]
        guess = f"; did you mean {others[0]}={value:g}?" if others else ""
        raise self._error(f"{what} must be {' or '.join(map(_kind_of_value, allowed))}{guess}", node)

    def _literal(self, what: str, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return NAMED_VALUES.get(node.id, node.id)
        if isinstance(node, ast.List | ast.Tuple):
            found = [self._literal(what, one) for one in node.elts]
            for value, one in zip(found, node.elts, strict=True):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise self._error(f"{what}: a list holds numbers", one)
            return tuple(float(value) for value in found)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._literal(what, node.operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            if isinstance(node.value, int) and abs(node.value) > _LARGEST:
                raise self._error(f"{what} is too large", node)
            return node.value
        raise self._error(f"{what} must be a number, a word or a list of numbers", node)

    def _unknown(self, name: str, node: ast.expr, known: tuple[str, ...]) -> UtilityError:
        return self._error(f"there is no step or combination {name!r}{_guess(name, known)}", node)

    def _error(self, message: str, node: ast.expr | ast.keyword) -> UtilityError:
        # Python counts columns in bytes of UTF-8, and the first line stands below the parenthesis
        line = self._lines[node.lineno - 2]
        return self._pointed(message, line, len(line.encode()[: node.col_offset].decode(errors="ignore")))

    def _syntax(self, error: SyntaxError) -> UtilityError:
        place = (error.lineno or 2) - 2
        if not 0 <= place < len(self._lines):
            return UtilityError(f"the utility is not complete: {error.msg}\n  {self._lines[-1]}")
        return self._pointed(f"the utility cannot be read: {error.msg}", self._lines[place], (error.offset or 1) - 1)

    def _pointed(self, message: str, line: str, column: int) -> UtilityError:
        cut = len(line) - len(line.lstrip())
        return UtilityError(f"{message}\n  {line.strip()}\n  {' ' * (column - cut)}^")


def _spelled(name: str) -> str:
    return SPELLINGS.get(name, name)


def _kinds_of_values(hint: Any) -> tuple[Any, ...]:
    """The types that an argument may have."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value is of a type; whole numbers are numbers too, and true and false are none."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def _guess(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _is_needed(kind: type[Any], name: str) -> bool:
    return not hasattr(kind, name)


def _kind_of_value(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of numbers"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(hint, str(hint))

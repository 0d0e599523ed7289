"""Reads the protobuf text format into a tree that remembers lines, without knowing any schema.

Only what `config.pbtxt` files use: `name: scalar`, `name { ... }`, `name: [a, b]`, `name [ {...}, {...} ]`, `#`
comments, `,` and `;` between fields, adjacent strings joined. Numbers stay text until somebody asks for them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engines.errors import InvalidConfig

# Nesting is bounded so that hostile input cannot exhaust the interpreter's stack.
DEPTH_MAX = 32

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?))
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSES = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written: `kind` is `word`, `number` or `string`; strings are unescaped."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Message:
    """The fields between two braces, in the order of the file."""

    fields: tuple["Field", ...]
    line: int


@dataclass(frozen=True, slots=True)
class Field:
    """One `name: value`; `values` has one element, or those of a `[list]`, which may be empty."""

    name: str
    values: tuple[Scalar | Message, ...]
    line: int


def parse_text(text: str, path: str) -> Message:
    """Returns the tree of a whole file.

    Args:
        text: contents of the file.
        path: what errors call the file.

    Raises:
        InvalidConfig: the text is not in the format; names file, line, what was found and what was expected.

    >>> [field.name for field in parse_text('name: "m" input [ { dims: [ 3 ] } ]', "config.pbtxt").fields]
    ['name', 'input']
    """
    return _Parser(text, path).file()


def quote(text: str) -> str:
    r"""Returns `text` as a quoted string that `parse_text` reads back unchanged.

    >>> print(quote('a "b"'))
    "a \"b\""
    """
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(plain.get(letter, letter) for letter in text) + '"'


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self._path = path
        self._tokens = list(self._split(text))
        self._at = 0

    def file(self) -> Message:
        fields = self._fields(until="", depth=0)
        return Message(fields, 1)

    def _split(self, text: str) -> Iterator[Scalar]:
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._refused(
                    line,
                    f"unexpected character {text[at]!r}",
                    "a field name, value or bracket",
                )
            kind, found = str(match.lastgroup), match.group()
            if kind != "space":
                yield Scalar(kind, found, line)
            line += found.count("\n")
            at = match.end()
        yield Scalar("end", "", line)

    def _refused(self, line: int, found: str, expected: str) -> InvalidConfig:
        return InvalidConfig(
            f"{self._path}:{line}: {found}; expected {expected}",
            path=self._path,
            line=line,
        )

    def _peek(self) -> Scalar:
        return self._tokens[self._at]

    def _next(self) -> Scalar:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _take(self, *marks: str) -> bool:
        if self._peek().kind == "mark" and self._peek().text in marks:
            self._next()
            return True
        return False

    def _fields(self, until: str, depth: int) -> tuple[Field, ...]:
        fields: list[Field] = []
        while True:
            token = self._next()
            if (token.kind == "end" and not until) or (token.kind == "mark" and token.text == until):
                return tuple(fields)
            if token.kind == "end":
                raise self._refused(token.line, "the file ends inside a message", f"`{until}`")
            if token.kind != "word":
                raise self._refused(token.line, f"found `{token.text}`", "a field name")
            has_colon = self._take(":")
            fields.append(Field(token.text, self._values(token.text, has_colon, depth), token.line))
            self._take(",", ";")

    def _values(self, name: str, has_colon: bool, depth: int) -> tuple[Scalar | Message, ...]:
        if not self._take("["):
            return (self._value(name, has_colon, depth),)
        values: list[Scalar | Message] = []
        while not self._take("]"):
            values.append(self._value(name, has_colon, depth))
            if not self._take(",") and not (self._peek().kind == "mark" and self._peek().text == "]"):
                raise self._refused(self._peek().line, f"found `{self._peek().text}`", "`,` or `]`")
        return tuple(values)

    def _value(self, name: str, has_colon: bool, depth: int) -> Scalar | Message:
        token = self._next()
        if token.kind == "mark" and token.text in _CLOSES:
            if depth >= DEPTH_MAX:
                raise self._refused(
                    token.line,
                    f"`{name}` is nested deeper",
                    f"at most {DEPTH_MAX} levels",
                )
            return Message(self._fields(_CLOSES[token.text], depth + 1), token.line)
        if not has_colon:
            raise self._refused(token.line, f"`{name}` has no value", "`:` and a value, or `{`")
        if token.kind in ("word", "number"):
            return token
        if token.kind == "string":
            parts = [_unescape(token.text)]
            while self._peek().kind == "string":
                parts.append(_unescape(self._next().text))
            return Scalar("string", "".join(parts), token.line)
        found = f"found `{token.text}`" if token.text else "the file ends"
        raise self._refused(token.line, f"{found} after `{name}:`", "a value")


def _unescape(literal: str) -> str:
    def letter(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8))
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(letter, literal[1:-1])

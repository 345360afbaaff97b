"""JSON in and out, with the errors of the parser that llama-server uses (nlohmann::json), to the letter.

A body is read by orjson, which is strict and fast: 100 MiB in 0.2 s. Where that fails, `Scanner` reads it
again, slowly, and says where and why as nlohmann's lexer would; a body whose fault it does not reach within
`SCAN_SECONDS` is refused with orjson's own words.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, NoReturn

import orjson

from refembed.server.errors import ApiError

SPACES, MARKS, DIGITS = frozenset(b" \t\r\n"), frozenset(b"[]{}:,"), frozenset(b"0123456789")
HEX, ESCAPES = frozenset(b"0123456789abcdefABCDEF"), frozenset(b'"\\/bfnrt')
SCAN_SECONDS = 0.5  # that `Scanner` may take: it reads some 5 MB a second
MAX_INT, MIN_INT = 2**64, -(2**63)  # beyond, nlohmann::json makes a float of an integer


def loads(body: bytes) -> Any:
    """The value that a body holds. ApiError 400 where it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        why = str(e)
    scanner = Scanner(body)
    try:
        end = scanner.run()
    except TimeoutError:
        raise ApiError(f"the body is not JSON: {why}") from None
    if end < len(body):
        return loads(body[:end])  # what follows a NUL is not read
    # sound by the grammar, and refused by orjson: a byte order mark, or too deep
    try:
        return json.loads(body.decode("utf-8-sig"))
    except RecursionError:
        raise ApiError("the body is nested too deeply") from None


def dumps(value: Any) -> bytes:
    """As compact as llama-server writes it: no spaces, no escapes beyond those that must be; bad UTF-8 replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def type_name(value: Any) -> str:
    """What nlohmann::json calls a value's type."""
    names = ((type(None), "null"), (bool, "boolean"), (str, "string"), (dict, "object"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "number")


def is_integer(value: Any) -> bool:
    """Whether nlohmann::json holds this as an integer."""
    return isinstance(value, int) and not isinstance(value, bool) and MIN_INT <= value < MAX_INT


def wrong_type(wanted: str, value: Any) -> ApiError:
    """What `value.get<T>()` throws."""
    return ApiError(f"[json.exception.type_error.302] type must be {wanted}, but is {type_name(value)}")


def to_string(value: Any) -> str:
    """`get<std::string>()`."""
    if not isinstance(value, str):
        raise wrong_type("string", value)
    return value


def to_int(value: Any) -> int:
    """`get<int>()`: true is 1, fractions are cut off. A number that does not fit stays as it is."""
    if not isinstance(value, (int, float)):
        raise wrong_type("number", value)
    return int(value)


def field(body: Any, key: str, default: Any) -> Any:
    """`json_value(body, key, default)`: the default where the key is absent, null or of another type.

    A number may be given as true or false, which are 1 and 0, but no number is a truth.
    """
    value = body.get(key) if isinstance(body, dict) else None
    if isinstance(default, bool):
        same = isinstance(value, bool)
    elif isinstance(default, int):
        same = isinstance(value, (int, float))
        value = int(value) if same and value is not None else value
    else:
        same = isinstance(value, type(default))
    return value if same else default


class Scanner:
    """A strict JSON reader that only knows how to find the first fault. Mirrors nlohmann's lexer and parser."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.pos = self.start = 0  # next byte to read; where the token shown as "last read" begins
        self.end = time.monotonic() + SCAN_SECONDS

    def run(self) -> int:
        """Read everything; ApiError at the first fault, TimeoutError where that takes too long.

        Returns where the end is: a NUL counts as one.
        """
        if self.body.startswith(b"\xef"):
            if self.next() != 0xEF or self.next() != 0xBB or self.next() != 0xBF:
                self.bad("invalid BOM; must be 0xEF 0xBB 0xBF if given", "value", "")
            self.start = 3
        token = self.token("value")
        if token == "end of input" and self.pos <= 1:
            self.fail(
                "attempting to parse an empty input; check that your input string or stream contains the expected JSON"
            )
        self.value(token)
        token = self.token("value", expected="end of input")
        if token != "end of input":
            self.unexpected(token, "value", "end of input")
        return self.pos - 1

    def value(self, token: str) -> None:
        """One value whose first token is read, nested ones on an explicit stack."""
        stack: list[str] = []
        while True:
            closed = False
            if token == "'{'":
                token = self.token("object key", expected="string literal")
                if token != "'}'":
                    self.key(token)
                    stack.append("object")
                    token = self.token("value")
                    continue
                closed = True
            elif token == "'['":
                token = self.token("value")
                if token != "']'":
                    stack.append("array")
                    continue
                closed = True
            if not closed and token not in ("string literal", "number literal", "literal"):
                self.unexpected(token, "value", "'[', '{', or a literal")
            while stack:
                kind, end = stack[-1], "'}'" if stack[-1] == "object" else "']'"
                token = self.token(kind, expected=end)
                if token == end:
                    stack.pop()
                    continue
                if token != "','":
                    self.unexpected(token, kind, end)
                if kind == "object":
                    self.key(self.token("object key", expected="string literal"))
                token = self.token("value")
                break
            else:
                return

    def key(self, token: str) -> None:
        """A key whose token is read, and its colon."""
        if token != "string literal":
            self.unexpected(token, "object key", "string literal")
        token = self.token("object separator", expected="':'")
        if token != "':'":
            self.unexpected(token, "object separator", "':'")

    def unexpected(self, token: str, context: str, expected: str) -> NoReturn:
        """A token in the wrong place."""
        self.fail(f"syntax error while parsing {context} - unexpected {token}; expected {expected}")

    def bad(self, why: str, context: str, expected: str) -> NoReturn:
        """No token at all."""
        read = self.body[self.start : self.pos].decode("utf-8", "replace")
        shown = "".join(f"<U+{ord(c):04X}>" if c <= "\x1f" else c for c in read)
        tail = f"; expected {expected}" if expected else ""
        self.fail(f"syntax error while parsing {context} - {why}; last read: '{shown}'{tail}")

    def fail(self, message: str) -> NoReturn:
        """ApiError with the place of the byte read last."""
        read = self.body[: self.pos]
        line, column = read.count(b"\n") + 1, self.pos - (read.rfind(b"\n") + 1)
        raise ApiError(f"[json.exception.parse_error.101] parse error at line {line}, column {column}: {message}")

    def next(self) -> int:
        """The next byte, -1 at the end, which counts as read."""
        self.pos += 1
        if self.pos & 0xFFF == 0 and time.monotonic() > self.end:
            raise TimeoutError
        return self.body[self.pos - 1] if self.pos <= len(self.body) else -1

    def token(self, context: str, expected: str = "") -> str:
        """Read a token; its name as errors show it."""
        c = self.next()
        while c in SPACES:
            c = self.next()
        if c in MARKS:
            return f"'{chr(c)}'"
        if c in (-1, 0):
            return "end of input"
        if c == 0x22:
            return self.string(context, expected)
        if c == 0x2D or c in DIGITS:
            return self.number(c, context, expected)
        word = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}.get(c, b"")
        if not word or any(self.next() != w for w in word[1:]):
            self.bad("invalid literal", context, expected)
        return "literal"

    def number(self, c: int, context: str, expected: str) -> str:
        """-?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?"""
        self.start = self.pos - 1
        if c == 0x2D and (c := self.next()) not in DIGITS:
            self.bad("invalid number; expected digit after '-'", context, expected)
        c = self.next() if c == 0x30 else self.digits()
        if c == 0x2E:
            if self.next() not in DIGITS:
                self.bad("invalid number; expected digit after '.'", context, expected)
            c = self.digits()
        if c in (0x65, 0x45):
            c = self.next()
            if c in (0x2B, 0x2D):
                if self.next() not in DIGITS:
                    self.bad("invalid number; expected digit after exponent sign", context, expected)
            elif c not in DIGITS:
                self.bad("invalid number; expected '+', '-', or digit after exponent", context, expected)
            self.digits()
        self.pos -= 1
        text = self.body[self.start : self.pos].decode()
        if math.isinf(float(text)):
            raise ApiError(f"[json.exception.out_of_range.406] number overflow parsing '{text}'")
        return "number literal"

    def digits(self) -> int:
        """Skip digits; the byte behind them."""
        while (c := self.next()) in DIGITS:
            pass
        return c

    def string(self, context: str, expected: str) -> str:
        """The rest of a string."""
        self.start = self.pos - 1
        while (c := self.next()) != 0x22:
            if c == -1:
                self.bad("invalid string: missing closing quote", context, expected)
            if c < 0x20:
                self.bad(control(c), context, expected)
            if c == 0x5C:
                self.escape(context, expected)
            elif c >= 0x80 and not self.utf8(c):
                self.bad("invalid string: ill-formed UTF-8 byte", context, expected)
        return "string literal"

    def escape(self, context: str, expected: str) -> None:
        """What stands behind a backslash."""
        c = self.next()
        if c != 0x75:
            if c not in ESCAPES:
                self.bad("invalid string: forbidden character after backslash", context, expected)
            return
        code = self.four_digits(context, expected)
        if 0xD800 <= code <= 0xDBFF:
            why = "invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF"
            if self.next() != 0x5C or self.next() != 0x75:
                self.bad(why, context, expected)
            if not 0xDC00 <= self.four_digits(context, expected) <= 0xDFFF:
                self.bad(why, context, expected)
        elif 0xDC00 <= code <= 0xDFFF:
            self.bad("invalid string: surrogate U+DC00..U+DFFF must follow U+D800..U+DBFF", context, expected)

    def four_digits(self, context: str, expected: str) -> int:
        """Four hexadecimal digits."""
        code = 0
        for _ in range(4):
            c = self.next()
            if c not in HEX:
                self.bad("invalid string: '\\u' must be followed by 4 hex digits", context, expected)
            code = code * 16 + int(chr(c), 16)
        return code

    def utf8(self, first: int) -> bool:
        """Read the bytes that follow a first byte of UTF-8, up to one that does not fit."""
        low, high, more = next((row[1:] for row in UTF8 if first in row[0]), (0, -1, 0))
        if not more:
            return False
        for _ in range(more):
            if not low <= self.next() <= high:
                return False
            low, high = 0x80, 0xBF
        return True


# first byte: range of the second byte, bytes that follow (the Unicode Standard, table 3-7)
UTF8 = (
    (range(0xC2, 0xE0), 0x80, 0xBF, 1),
    (range(0xE0, 0xE1), 0xA0, 0xBF, 2),
    (range(0xE1, 0xED), 0x80, 0xBF, 2),
    (range(0xED, 0xEE), 0x80, 0x9F, 2),
    (range(0xEE, 0xF0), 0x80, 0xBF, 2),
    (range(0xF0, 0xF1), 0x90, 0xBF, 3),
    (range(0xF1, 0xF4), 0x80, 0xBF, 3),
    (range(0xF4, 0xF5), 0x80, 0x8F, 3),
)

# fmt: off
CONTROLS = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)
# fmt: on
SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r"}


def control(c: int) -> str:
    """What is wrong with a control character in a string."""
    short = f" or \\{SHORT[c]}" if c in SHORT else ""
    return f"invalid string: control character U+{c:04X} ({CONTROLS[c]}) must be escaped to \\u{c:04X}{short}"

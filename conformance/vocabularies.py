"""Real vocabularies compared with live llama.cpp: upstream's own texts and ids, random texts, and the way back.

    python -m conformance fetch vocabularies      # once
    python -m conformance vocabularies            # a table: vocabulary, strings, mismatches

Upstream's texts (.inp) have ids (.out) that another library made, the model's own. Random texts are asked of llama.cpp,
with special tokens added and parsed, and without either; some ids are asked for their text. The table ends with the
first mismatches of each vocabulary: none is expected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from conformance.vocab_fetch import folder, missing, whole_model
from refembed.errors import EngineError, RefembedError, RequestError
from refembed.testing.texts import random_texts
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.verify.engines.llamacpp import LlamaCpp

SEPARATOR = b"\n__ggml_vocab_test__\n"
HINT = "python -m conformance fetch vocabularies"
CHUNK = 2000  # texts asked at once
WAYS_BACK = 100  # sequences of either kind that are detokenized
MAX_MISMATCHES = 5  # mismatches kept of each vocabulary


@dataclass
class Row:
    """What came of one vocabulary."""

    name: str
    kind: str = ""  # tokenizer.ggml.model
    pre: str = ""
    upstream: int = 0  # texts with ids of upstream's
    strings: int = 0  # random texts, each asked twice
    mismatches: int = 0
    first: list[str] = field(default_factory=list)  # some of them, spelled out
    skipped: str = ""  # why it was not asked

    def miss(self, what: str) -> None:
        """Count a mismatch."""
        self.mismatches += 1
        if len(self.first) < MAX_MISMATCHES:
            self.first.append(what)


def names() -> list[str]:
    """Vocabularies that are there: file names less `ggml-vocab-` and endings."""
    return sorted(short(path) for path in folder().glob("*.gguf"))


def short(path: Path) -> str:
    """The name of a vocabulary's file."""
    return "gemma-3-270m" if path.name == whole_model().name else path.stem.removeprefix("ggml-vocab-")


def path_of(name: str) -> Path:
    """The file of a vocabulary, fetched before. RequestError where it is not there."""
    found = [path for path in folder().glob("*.gguf") if short(path) == name]
    if not found:
        raise RequestError(f"no vocabulary {name!r}: there are {', '.join(names()) or 'none'}", hint=HINT)
    return found[0]


def upstream(path: Path) -> list[tuple[bytes, list[int]]]:
    """llama.cpp's own texts for a vocabulary, and their ids without special tokens; none where it has no such files."""
    texts, ids = (path.with_name(path.name + ending) for ending in (".inp", ".out"))
    if not texts.is_file():
        return []
    parts = texts.read_bytes().split(SEPARATOR)
    lines = ids.read_bytes().decode().split("\n")
    asked = parts[:-1] if not parts[-1] else parts  # most files end with a separator, one does not
    answers = [[int(i) for i in line.split()] for line in (lines[:-1] if not lines[-1] else lines)]
    if len(asked) != len(answers):
        raise RequestError(
            f"{texts}: {len(asked)} texts, but {len(answers)} lines of ids in the file that goes with it"
        )
    return list(zip(asked, answers, strict=True))


def salted(texts: Sequence[str | bytes], tokenizer: Tokenizer, seed: int) -> list[bytes]:
    """The texts as bytes; every fourth has special tokens of this vocabulary in it, whole or damaged, with spaces."""
    rng = random.Random(seed)
    special = [s.text for s in tokenizer._specials[True]] or [b"<s>"]
    result = []
    for i, text in enumerate(texts):
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        for _ in range(rng.randrange(1, 4) if i % 4 == 0 else 0):
            token = special[int(rng.random() ** 3 * len(special))] if rng.random() < 0.7 else rng.choice(special)
            if rng.random() < 0.2:
                token = token[: rng.randrange(len(token) + 1)]
            at = rng.randrange(len(raw) + 1)
            raw = raw[:at] + rng.choice((b"", b" ", b"\n ")) + token + rng.choice((b"", b"  ", b"\t")) + raw[at:]
        result.append(raw)
    return result


def check(name: str, n: int, seed: int = 0, switches: Iterable[bool] = (True, False)) -> Row:
    """Hold one vocabulary against llama.cpp.

    n         random texts
    seed      of the texts
    switches  add_special and parse_special, both on or both off
    """
    path, row = path_of(name), Row(name)
    try:
        engine = LlamaCpp(path, vocab_only=True)
    except EngineError as e:
        row.skipped = str(e).splitlines()[0]
        return row
    with engine:
        tokenizer = load_tokenizer(path)
        row.kind, row.pre = tokenizer.vocab.kind, tokenizer.vocab.pre
        for text, theirs in upstream(path):
            row.upstream += 1
            compare(row, tokenizer, text, theirs, False, "upstream's ids")
            compare(row, tokenizer, text, engine.tokenize(text, False, False), False, "ids")
        texts = salted(random_texts(seed, n), tokenizer, seed)
        row.strings = n
        for start in range(0, n, CHUNK):
            part = texts[start : start + CHUNK]
            for switch in switches:
                for text, theirs in zip(part, engine.tokenize_many(part, switch, switch), strict=True):
                    compare(row, tokenizer, text, theirs, switch, "ids")
        way_back(row, engine, tokenizer, texts, seed)
    return row


def way_back(row: Row, engine: LlamaCpp, tokenizer: Tokenizer, texts: Sequence[bytes], seed: int) -> None:
    """Some texts' ids, and ids drawn at random, as text again: with special tokens and without."""
    rng, n = random.Random(seed), len(tokenizer.vocab)
    sequences = [tokenizer.encode(t, True, True) for t in texts[:: max(1, len(texts) // WAYS_BACK)]]
    sequences += [[rng.randrange(n) for _ in range(rng.randrange(1, 12))] for _ in range(WAYS_BACK)]
    for ids in sequences:
        for switch in (False, True):
            theirs = engine.detokenize_bytes(ids, switch, not switch)
            ours = tokenizer.decode_bytes(ids, switch, not switch)
            if ours != theirs:
                row.miss(
                    f"text of {ids[:40]} (special tokens {'removed' if switch else 'shown'}): {ours!r}, not {theirs!r}"
                )


def compare(row: Row, tokenizer: Tokenizer, text: bytes, theirs: Sequence[int], switch: bool, what: str) -> None:
    """One text in refembed, compared with the ids it is to have."""
    try:
        ours: object = tokenizer.encode(text, switch, switch)
    except RefembedError as e:
        ours = e
    if ours != list(theirs):
        where = "special tokens added and parsed" if switch else "no special tokens"
        row.miss(f"{what} of {text!r:.200} ({where}): {ours}, not {list(theirs)}")


def run(patterns: Sequence[str], n: int, seed: int, each: Callable[[Row], object]) -> list[Row]:
    """Check the vocabularies whose names fit; `each` is called with every row as it comes."""
    chosen = [name for name in names() if not patterns or any(fnmatch(name, p) for p in patterns)]
    if not chosen:
        raise RequestError("no such vocabulary is there", hint=f"there are {', '.join(names()) or 'none'}; {HINT}")
    rows = []
    for name in chosen:
        rows.append(check(name, n, seed))
        each(rows[-1])
    return rows


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The table, a line a row, and the first mismatches behind it."""
    yield f"{'vocabulary':18} {'model':8} {'pre':16} {'upstream':>8} {'strings':>8} {'mismatches':>10}"
    for r in (rows := list(rows)):
        numbers = f"{r.upstream:8} {r.strings:8} {r.mismatches:10}"
        yield f"{r.name:18} {r.kind:8} {r.pre or '(none)':16} " + (f"skipped: {r.skipped}" if r.skipped else numbers)
    for r in rows:
        yield from (f"{r.name}: {m}" for m in r.first)


def why_not() -> str:
    """The sentence that a run without vocabularies ends with; "" where all are there."""
    return f"{len(missing())} files of vocabularies.toml are not there: {HINT}" if missing() else ""

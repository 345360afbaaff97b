"""Queries, documents and judgements from files: BEIR's JSON Lines and TSV, TREC's qrels; pairs with scores.

    queries.jsonl   {"_id": "q1", "text": "what is a cat"}                   or a line "q1<TAB>what is a cat"
    corpus.jsonl    {"_id": "d1", "title": "Cat", "text": "A small ..."}     or a line "d1<TAB>A small ..."
    qrels.tsv       query-id<TAB>corpus-id<TAB>score, with that first line   BEIR
    qrels.txt       q1 0 d1 2                                                TREC: query, iteration, document, level
    pairs.tsv       a sentence<TAB>another<TAB>4.5                           STS; or columns that a first line names

A document is its title, a space, and its text, as in BEIR. Whatever does not fit is one error that says how many lines
or ids, and which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from refembed.errors import RequestError
from refembed.evaluate.metrics import by_bytes
from refembed.parse_json import parse_object

MOST_NAMED = 5  # ids or lines that a message names
COLUMNS = ("sentence1", "sentence2", "score")  # of pairs, where the first line names columns

Qrels = dict[str, dict[str, int]]  # query -> document -> level


class Pair(NamedTuple):
    """Two sentences, and how alike people find them.

    >>> Pair("a cat", "a feline", 4.5).score
    4.5
    """

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Collection:
    """What retrieval is measured on: queries that were judged, documents, judgements of these. `Collection.of` checks.

    notes  what was left out: how many, and which

    >>> c = Collection.of({"q1": "a cat", "q2": "a dog"}, {"d1": "cats", "d2": "dogs"}, {"q1": {"d1": 1}})
    >>> list(c.queries), c.notes
    (['q1'], ('queries without judgements, left out: 1 of 2 (q2)',))
    """

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Qrels
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, queries: Mapping[str, str], documents: Mapping[str, str], qrels: Qrels, *, skip_unknown: bool = False
    ) -> Collection:
        """The three together, documents in the order of ties (`metrics`).

        skip_unknown  judgements of queries or documents that are not there are left out, with a note; False: an error
        Raises RequestError where a part is empty or nothing is left of it.
        """
        for what, part in (("queries", queries), ("corpus", documents), ("qrels", qrels)):
            if not part:
                raise RequestError(f"the {what} are empty" if what != "corpus" else "the corpus is empty")
        absent = [q for q in qrels if q not in queries]
        lost = {d for levels in qrels.values() for d in levels if d not in documents}
        unknown = (("queries", absent, len(qrels)), ("documents", sorted(lost), judged(qrels)))
        odd = [
            f"the qrels name {what} that are not there: {len(ids)} of {total} ({named(ids)})"
            for what, ids, total in unknown
            if ids
        ]
        if odd and not skip_unknown:
            hint = "do the files belong together? --skip-unknown leaves these judgements out"
            raise RequestError("; ".join(odd), hint=hint)
        notes = [f"{found}; left out" for found in odd]
        kept = {
            q: left
            for q, levels in qrels.items()
            if q in queries and (left := {d: level for d, level in levels.items() if d in documents})
        }
        if not kept:
            raise RequestError("no judgement is left: the qrels name none of the queries and documents")
        groups = {
            "without judgements, left out": [q for q in queries if q not in kept],
            "without a relevant document, which count as 0, as in trec_eval": [
                q for q, levels in kept.items() if max(levels.values()) <= 0
            ],
        }
        notes += [f"queries {what}: {len(q)} of {len(queries)} ({named(q)})" for what, q in groups.items() if q]
        for name, part in (("queries", {q: queries[q] for q in kept}), ("documents", documents)):
            if blank := [i for i, text in part.items() if not text.strip()]:
                notes.append(f"{name} without text: {len(blank)} of {len(part)} ({named(blank)})")
        order = sorted(documents, key=by_bytes, reverse=True)
        return cls({q: queries[q] for q in kept}, {d: documents[d] for d in order}, kept, tuple(notes))


def judged(qrels: Qrels) -> int:
    """How many documents are named."""
    return len({d for levels in qrels.values() for d in levels})


def named(items: Iterable[object]) -> str:
    """The first few, and that there are more."""
    every = [str(i) for i in items]
    shown = ", ".join(i if len(i) <= 60 else i[:57] + "..." for i in every[:MOST_NAMED])
    return shown + (", ..." if len(every) > MOST_NAMED else "")


def read_texts(path: str | Path, what: str = "corpus") -> dict[str, str]:
    """Texts by id, of queries or of a corpus: JSON Lines, or TSV of id and text.

    RequestError where the file cannot be read, for lines that do not fit, and for ids that stand there twice.

    >>> _ = Path("corpus.jsonl").write_text('{"_id": "d1", "title": "Cat", "text": "A small animal."}\\n')
    >>> read_texts("corpus.jsonl")
    {'d1': 'Cat A small animal.'}
    """
    texts: dict[str, str] = {}
    twice = []
    for where, line in lines(path, what):
        id, text = read_line(line, where)
        if id in texts:
            twice.append(id)
        texts[id] = text
    if twice:
        hint = "each id must be that of one text"
        raise RequestError(f"{path}: ids of two texts: {len(twice)} ({named(twice)})", hint=hint)
    return texts


def read_line(line: str, where: str) -> tuple[str, str]:
    """Id and text of a line."""
    if not line.startswith("{"):
        id, tab, text = line.partition("\t")
        if not tab or not id:
            hint = 'a line is {"_id": "d1", "text": "..."}, or an id, a tab and a text'
            raise RequestError(f"{where}: neither a JSON object nor an id and a text: {line[:60]!r}", hint=hint)
        return id, text.replace("\t", " ")
    try:
        fields = parse_object(line)
    except ValueError as e:
        raise RequestError(f"{where}: no JSON object: {e}", hint="one object a line, as in BEIR") from None
    key, words, title = fields.get("_id", fields.get("id")), fields.get("text"), fields.get("title") or ""
    if not isinstance(key, (str, int)) or isinstance(key, bool) or not isinstance(words, str):
        raise RequestError(f'{where}: no "_id" and "text" in it: {line[:60]}', hint='{"_id": "d1", "text": "..."}')
    return str(key), f"{title} {words}".strip() if isinstance(title, str) else words


def read_qrels(path: str | Path) -> Qrels:
    """Judgements, BEIR's or TREC's: query -> document -> level.

    A first line whose last field is no number, and whose ids no other line has, names the columns.
    RequestError where the file cannot be read, for lines that do not fit, and for two levels of one document.

    >>> _ = Path("qrels.tsv").write_text("query-id\\tcorpus-id\\tscore\\nq1\\td1\\t2\\n")
    >>> read_qrels("qrels.tsv")
    {'q1': {'d1': 2}}
    """
    qrels: Qrels = {}
    other: list[str] = []
    names: tuple[str, str, list[str]] | None = None
    hint = "BEIR: query, document, level, with tabs between; TREC: query, 0, document, level"
    for number, (where, line) in enumerate(lines(path, "qrels")):
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        if number == 0 and len(fields) in (3, 4) and fields[-1][:1].isalpha() and not is_nan_or_infinite(fields[-1]):
            names = where, line, fields
            continue
        if len(fields) not in (3, 4) or not is_level(fields[-1]):
            raise RequestError(f"{where}: not a judgement: {line[:60]!r}", hint=hint)
        query, document, level = fields[0], fields[-2], int(float(fields[-1]))
        if qrels.setdefault(query, {}).setdefault(document, level) != level:
            other.append(f"{query} {document}")
    if names:
        where, line, fields = names
        if not qrels:
            raise RequestError(f"{where}: the only line, and not a judgement: {line[:60]!r}", hint=hint)
        if fields[0] in qrels or any(fields[-2] in found for found in qrels.values()):
            raise RequestError(f"{where}: not a judgement: {line[:60]!r}", hint=hint)
    if other:
        raise RequestError(f"{path}: documents with two levels for one query: {len(other)} ({named(other)})")
    return qrels


def is_level(text: str) -> bool:
    """A whole number, which may be written 1.0."""
    return re.fullmatch(r"[+-]?[0-9]{1,9}(\.0*)?", text) is not None


def is_nan_or_infinite(text: str) -> bool:
    """A word that is read as a number and is none that counts: nan, inf."""
    return text.lower() in ("nan", "inf", "infinity")


def is_number(text: str) -> bool:
    """A finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_pairs(path: str | Path) -> list[Pair]:
    """Sentence pairs with scores, tabs between; a first line may name columns sentence1, sentence2 and score.

    RequestError where the file cannot be read, and for lines that do not fit: how many, and which.

    >>> _ = Path("pairs.tsv").write_text("a cat\\ta feline\\t4.5\\na cat\\train\\t0\\n")
    >>> read_pairs("pairs.tsv")[0]
    Pair(first='a cat', second='a feline', score=4.5)
    """
    pairs, wrong, columns = [], [], (0, 1, 2)
    for number, (where, line) in enumerate(lines(path, "pairs")):
        fields = line.split("\t")
        if number == 0 and set(COLUMNS) <= set(fields):
            columns = (fields.index("sentence1"), fields.index("sentence2"), fields.index("score"))
        elif len(fields) > max(columns) and is_number(fields[columns[2]]):
            pairs.append(Pair(fields[columns[0]], fields[columns[1]], float(fields[columns[2]])))
        else:
            wrong.append(where.rpartition(" ")[2])
    if wrong:
        hint = "a sentence, another and a score, with tabs between; or a first line sentence1, sentence2, score"
        raise RequestError(f"{path}: lines that are no pair with a score: {len(wrong)} ({named(wrong)})", hint=hint)
    if len(pairs) < 2:
        raise RequestError(f"{path}: {len(pairs)} pairs, too few to correlate", hint="two at least")
    return pairs


def lines(path: str | Path, what: str) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, with their place. RequestError where it cannot be read, or is empty."""
    nothing = True
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    nothing = False
                    yield f"{path}, line {number}", line.rstrip("\r\n")
    except OSError as e:
        raise RequestError(f"{path}: {e.strerror or e}", hint=f"a file for the {what}") from None
    except UnicodeDecodeError as e:
        raise RequestError(
            f"{path}: not UTF-8: {e.reason} at byte {e.start}", hint="iconv -t UTF-8 converts it"
        ) from None
    if nothing:
        raise RequestError(f"{path}: the {what} is empty" if what == "corpus" else f"{path}: the {what} are empty")

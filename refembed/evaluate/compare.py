"""Retrieval and similarity measured for every setting of a grid, next to what each costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from refembed.arrays import F32, F64
from refembed.compress.search import Stage, search
from refembed.errors import RequestError
from refembed.evaluate.bootstrap import RESAMPLES, Interval, mean_intervals, statistic_intervals
from refembed.evaluate.collection import Collection, Pair
from refembed.evaluate.embedding import Cost, Models, Say
from refembed.evaluate.metrics import Measure, pearson, spearman
from refembed.evaluate.settings import Grid, Setting, codecs
from refembed.pooling.normalize import normalize
from refembed.similarity import cosine

DEPTH = 1000  # documents ranked for each query, unless a measure asks for more: TREC's and BEIR's usual number
MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map", "p@10")
CORRELATIONS: dict[str, Callable[[F64, F64], float]] = {"Spearman": spearman, "Pearson": pearson}


@dataclass(frozen=True)
class Line:
    """What one setting came to.

    values      measure -> its mean over queries, or the correlation
    interval    of the first measure
    difference  of the first measure, less that of the first line: from, to; None of the first line itself
    dimensions  numbers of a vector before it is coded
    bytes       of a vector as it is stored, and, where candidates are scored again, of the second code
    more_bytes

    >>> line = evaluate_sts([Pair("a cat", "a kitten", 5), Pair("a cat", "rain", 0)], Grid(("minilm",))).lines[0]
    >>> line.setting.vectors, line.bytes, line.difference, line.as_object()["bytes_a_vector"]  # 4 * 384
    ('float32', 1536, None, 1536)
    """

    setting: Setting
    values: dict[str, float]
    interval: Interval
    difference: Interval | None
    dimensions: int
    bytes: int
    more_bytes: int
    cost: Cost

    def as_object(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            **asdict(self.setting), "dimensions": self.dimensions, "values": self.values,
            "interval": list(self.interval), "difference": list(self.difference) if self.difference else None,
            "bytes_a_vector": self.bytes, "bytes_to_score_again": self.more_bytes,
            "tokens_per_second": round(self.cost.tokens_per_second, 1), "seconds": round(self.cost.seconds, 3),
            "tokens": self.cost.tokens, "cut_texts": self.cost.cut, "file_bytes": self.cost.file_bytes,
            "peak_bytes": self.cost.peak_bytes, "cores": self.cost.cores,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The lines, and what they were measured on.

    measured_on  in words: so many queries and documents

    >>> pairs = [Pair("a cat", "a kitten", 5), Pair("a cat", "rain", 0)]
    >>> report = evaluate_sts(pairs, Grid(("minilm",)))
    >>> report.measured_on, report.measures, report.memory, report.as_object()["seed"]
    ('2 pairs of sentences', ['Spearman', 'Pearson'], False, 0)
    """

    lines: tuple[Line, ...]
    measured_on: str
    notes: tuple[str, ...]
    seed: int
    resamples: int

    @property
    def memory(self) -> bool:
        """Whether each line's memory is known."""
        return all(line.cost.peak_bytes is not None for line in self.lines)

    @property
    def measures(self) -> list[str]:
        """Labels in order; the first has intervals."""
        return list(self.lines[0].values)

    def as_object(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "measured_on": self.measured_on, "notes": list(self.notes), "measures": self.measures, "seed": self.seed,
            "resamples": self.resamples, "lines": [line.as_object() for line in self.lines],
        }  # fmt: skip


def evaluate_retrieval(
    collection: Collection, grid: Grid, measures: Sequence[str] = MEASURES, *, skip_same_id: bool = False,
    memory: bool = False, seed: int = 0, resamples: int = RESAMPLES, say: Say = lambda _: None, progress: bool = False,
) -> Report:  # fmt: skip
    """Embed queries and documents by each setting, rank all documents by cosine, and judge the rankings.

    collection    `Collection.of` checks it
    measures      "ndcg@10", "map" ...; the first gets intervals
    skip_same_id  leave the document with the query's own id out of its ranking, as BEIR does (ArguAna, Quora)
    memory        embed in processes of their own, so that each model's memory can be said
    seed          of the bootstrap and of codebooks
    say           is given a line about what is being done
    progress      show a bar on stderr while texts are embedded, if that is a terminal
    Raises RequestError and ModelError for what cannot be measured.

    >>> from refembed.evaluate import Collection, Grid
    >>> c = Collection.of({"q": "a cat"}, {"d1": "The cat sat.", "d2": "Rain is near."}, {"q": {"d1": 1}})
    >>> report = evaluate_retrieval(c, Grid(("minilm",), vectors=("float32", "ubinary")), ["mrr@10"])
    >>> [(line.bytes, line.values) for line in report.lines]  # 4 * 384 bytes, and a bit a number
    [(1536, {'MRR@10': 1.0}), (48, {'MRR@10': 1.0})]
    """
    grid.check()
    parsed = [Measure.parse(text) for text in dict.fromkeys(measures)]
    if not parsed:
        raise RequestError("no measure to compute", hint="ndcg@10")
    depth = max([DEPTH, *(m.k or 0 for m in parsed)])
    texts = {"query": list(collection.queries.values()), "document": list(collection.documents.values())}
    found: list[Found] = []
    values: list[list[list[float]]] = []
    with Models(say, memory, progress) as models:
        for s, group in by_embedding(grid):
            before = models.prefixes(s)
            given = {name: (part, prefix) for (name, part), prefix in zip(texts.items(), before, strict=True)}
            vectors, cost = models.vectors(s, given)
            for setting in group:
                say(f"  ranking with {setting.vectors}")
                queries, documents = (cut(vectors[name], setting.dimensions) for name in ("query", "document"))
                rows, bytes_ = ranked(queries, documents, setting.vectors, depth + skip_same_id, seed)
                values.append(judge(collection, rows, parsed, depth, skip_same_id))
                found.append(Found(setting, documents.shape[1], *bytes_, cost))
    first = np.array([line[0] for line in values])  # (lines, queries)
    own = mean_intervals(first, resamples=resamples, seed=seed)
    less = mean_intervals(first - first[:1], resamples=resamples, seed=seed)
    means = [{m.label: float(np.mean(v)) for m, v in zip(parsed, line, strict=True)} for line in values]
    lines = lines_of(found, means, own, less)
    on = f"{len(collection.queries):,} queries, {len(collection.documents):,} documents"
    return Report(tuple(lines), on, (*collection.notes, *cut_notes(lines)), seed, resamples)


def evaluate_sts(
    pairs: Sequence[Pair], grid: Grid, *, memory: bool = False, seed: int = 0, resamples: int = RESAMPLES,
    say: Say = lambda _: None, progress: bool = False,
) -> Report:  # fmt: skip
    """Embed both sentences of each pair by each setting, and correlate their cosines with the scores.

    Codes are compared as what they decode to. Arguments and errors as of `evaluate_retrieval`.

    >>> pairs = [Pair("a cat", "a kitten", 5), Pair("a cat", "a dog", 3), Pair("a cat", "it rains", 0)]
    >>> report = evaluate_sts(pairs, Grid(("minilm",)), resamples=100)
    >>> {name: round(value, 2) for name, value in report.lines[0].values.items()}["Spearman"]
    1.0
    """
    grid.check()
    if grid.prompts != ("none",):
        raise RequestError("prompts are for queries and documents, and pairs have neither")
    target = np.array([p.score for p in pairs], np.float64)
    spearman(target, target)  # for its check: scores that do not differ
    texts = {"first": ([p.first for p in pairs], ""), "second": ([p.second for p in pairs], "")}
    found: list[Found] = []
    similarities: list[F64] = []
    with Models(say, memory, progress) as models:
        for s, group in by_embedding(grid):
            vectors, cost = models.vectors(s, texts)
            for setting in group:
                one, other = (cut(vectors[name], setting.dimensions) for name in ("first", "second"))
                codec, second = codecs(setting.vectors, np.concatenate([one, other]), seed)
                if second is not None:
                    hint = "it has no candidates: one scheme alone"
                    raise RequestError(f"{setting.vectors}: pairs are not searched", hint=hint)
                decoded = [codec.decode(codec.encode(x)) for x in (one, other)]
                similarities.append(np.array([cosine(x, y) for x, y in zip(*decoded, strict=True)]))
                found.append(Found(setting, one.shape[1], codec.bytes, 0, cost))
    own, less = statistic_intervals(similarities, target, spearman, resamples=resamples, seed=seed)
    values = [{name: f(cosines, target) for name, f in CORRELATIONS.items()} for cosines in similarities]
    lines = lines_of(found, values, own, less)
    return Report(tuple(lines), f"{len(pairs):,} pairs of sentences", tuple(cut_notes(lines)), seed, resamples)


class Found(NamedTuple):
    """What is known of a line before all are compared; fields as of `Line`."""

    setting: Setting
    dimensions: int
    bytes: int
    more_bytes: int
    cost: Cost


def lines_of(
    found: Sequence[Found], values: Sequence[dict[str, float]], own: Sequence[Interval], less: Sequence[Interval]
) -> list[Line]:
    """The lines, with their intervals, and those of their differences to the first."""
    return [
        Line(f.setting, values[i], own[i], less[i] if i else None, f.dimensions, f.bytes, f.more_bytes, f.cost)
        for i, f in enumerate(found)
    ]


def by_embedding(grid: Grid) -> Iterator[tuple[Setting, list[Setting]]]:
    """Settings by what decides their vectors, in order."""
    groups: dict[Setting, list[Setting]] = {}
    for s in grid.settings():
        groups.setdefault(s.embedding, []).append(s)
    yield from groups.items()


def cut(vectors: F32, dimensions: int | None) -> F32:
    """The first so many numbers of vectors (N, D), of length 1 again."""
    if dimensions is None:
        return vectors
    if not 1 <= dimensions <= vectors.shape[1]:
        hint = f"1 to {vectors.shape[1]}"
        raise RequestError(f"dimensions {dimensions}: the model's vectors have {vectors.shape[1]} numbers", hint=hint)
    return np.asarray(normalize(vectors[:, :dimensions], 2), np.float32)


def ranked(queries: F32, documents: F32, scheme: str, depth: int, seed: int) -> tuple[list[list[int]], tuple[int, int]]:
    """The best rows for each query, and the bytes of a code, and of the second. Rows of equal score stay in order."""
    codec, second = codecs(scheme, documents, seed)
    stage = Stage(codec, codec.encode(documents))
    again = Stage(second, second.encode(documents)) if second else None
    rows, _ = search(stage, queries, depth, rescore=again)
    return rows.tolist(), (codec.bytes, second.bytes if second else 0)


def judge(
    collection: Collection, rows: list[list[int]], measures: Sequence[Measure], depth: int, skip_same_id: bool
) -> list[list[float]]:
    """Each measure of each query: a list of them for each measure."""
    ids, values = list(collection.documents), []
    for query, order in zip(collection.queries, rows, strict=True):
        levels = collection.qrels[query]
        found = [ids[row] for row in order if not (skip_same_id and ids[row] == query)][:depth]
        relevance = [levels.get(id, 0) for id in found]
        judged = [level for id, level in levels.items() if not (skip_same_id and id == query)]
        values.append([m.of(relevance, judged) for m in measures])
    return [list(column) for column in zip(*values, strict=True)]


def cut_notes(lines: Sequence[Line]) -> Iterator[str]:
    """What was too long for a model."""
    for model in dict.fromkeys(line.setting.model for line in lines):
        most = max(line.cost.cut for line in lines if line.setting.model == model)
        if most:
            yield f"{model}: {most} texts were too long and lost their end"

"""The answer for two engines: the word, the texts, what to do. Vectors are angles, so that counts are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.verify.engines.recorded import open_recording
from refembed.verify.upgrade.run import verify_upgrade
from tests.verify.engine import Stub

TEXTS = [f"text no. {i}" for i in range(24)]


def vectors(texts, turn=0.0, scale=1.0, only=None, by=0.0):
    """Places on a circle 15 degrees apart, the i-th as often as its number says; turned, and some by more."""
    found = []
    for t in texts:
        angle = 15 * (sum(t.encode()) % 1009) + 0.1 * len(t) + turn + (by if only is not None and only(t) else 0.0)
        found.append(scale * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle)), 0.5]))
    return found


def engine(ids=None, **how):
    return Stub(lambda texts: vectors(texts, **how), ids)


def test_the_same_bits_are_identical():
    found = verify_upgrade(engine(), engine(), TEXTS)
    assert (found.kind, found.exit_code, found.remedy, found.search) == ("identical", 0, "nothing to do", None)


def test_a_small_movement_leaves_the_index_valid():
    found = verify_upgrade(engine(ids=lambda t: [len(t)]), engine(ids=lambda t: [len(t)], turn=1e-3), TEXTS)
    assert (found.kind, found.exit_code, found.same_tokens) == ("valid", 0, True)
    angle = 2 * math.sin(math.radians(1e-3) / 2) / math.hypot(1, 0.5)  # the third number does not turn
    assert found.moved == pytest.approx(angle, rel=1e-2)  # float32 leaves 6e-8 of 1.6e-5
    assert found.cosine == pytest.approx(angle**2 / 2, rel=2e-2)
    assert found.cause.startswith("same tokens, vectors moved by at most 1.2e-10 (1 - cos)")
    assert found.search.certain == 24
    assert [a.changed for a in found.search.arrangements] == [0, 0, 0]


@pytest.mark.parametrize(("share", "kind"), [(0.9, "valid"), (1.1, "re-embed")])
def test_four_movements_are_held_against_the_gap_of_the_median_query(share, kind):
    """Seven places on a circle; gaps are those of 10 and 40, of 10 and 30 degrees ..."""
    degrees = {"a": 0, "b": 10, "c": 40, "d": 80, "e": 130, "f": 190, "g": 260}

    def chord(angle):
        return 2 * math.sin(math.radians(angle) / 2)

    def at(turn):
        angles = {t: math.radians(d + turn) for t, d in degrees.items()}
        return Stub(lambda texts: [[math.cos(angles[t]), math.sin(angles[t])] for t in texts])

    two = [(10, 40), (10, 30), (30, 40), (40, 50), (50, 60), (60, 70), (70, 100)]  # to the nearest, and to the next
    gap = sorted(chord(b) - chord(a) for a, b in two)[3]
    turn = math.degrees(2 * math.asin(share * gap / 4 / 2))  # an angle whose chord is so much of a quarter of the gap
    found = verify_upgrade(at(0), at(turn), list(degrees))
    assert found.search.gap == pytest.approx(gap, rel=1e-5)
    assert found.kind == kind


def test_a_large_one_does_not():
    found = verify_upgrade(engine(), engine(turn=100.0), TEXTS)
    assert (found.kind, found.exit_code, found.same_tokens) == ("re-embed", 3, None)
    assert found.search.arrangements[0].changed > 12
    assert found.search.arrangements[2].changed == 0  # all turned together
    assert "another model, pooling, prompt or type of weights" in found.cause
    assert found.remedy == "re-embed all texts, or go on with the old engine"


def test_texts_whose_tokens_changed_are_named():
    texts = [*TEXTS, "text No. 7", "Text no. 8", "teXt"]

    def upper(t):
        return t != t.lower()

    def ids(cased):
        return lambda t: [1, 2, ord(t[0]) if cased else ord(t.lower()[0]), int(cased and upper(t))]

    found = verify_upgrade(engine(ids(False)), engine(ids(True), only=upper, by=30.0), texts)
    assert (found.kind, found.same_tokens) == ("re-embed", False)
    assert [t for t, _, _ in found.ids] == texts[24:]
    assert "the tokens of 3 of 27 texts changed, all texts with capital letters and no others" in found.cause
    assert found.remedy == "re-embed the texts whose tokens changed (capital letters); the others may stay"
    both = verify_upgrade(engine(ids(False)), engine(ids(True), turn=40.0), texts)
    assert "the vectors of others moved too" in both.cause
    assert both.remedy.startswith("re-embed all texts")


def test_texts_that_moved_are_named_where_no_tokens_are_shown():
    texts = [t.replace("no. ", "") for t in TEXTS] + [
        f"a much longer text with a number of words in it, {i}" for i in "abc"
    ]
    found = verify_upgrade(engine(), engine(only=lambda t: len(t) > 40, by=50.0), texts)
    assert found.kind == "re-embed"
    assert "3 of 27 texts moved far enough" in found.cause
    assert "all texts with punctuation, and no others" in found.cause
    assert [t.beyond for t in found.texts[:4]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (1.0, 3.0, "they were 1.118, and are 3.354"),
        (1 / math.hypot(1, 0.5), 2.0, "they were 1, and are 2.236"),
        (2.0, 1 / math.hypot(1, 0.5), "they were 2.236, and are 1"),
    ],
)
def test_other_lengths_alone_are_normalized(old, new, says):
    found = verify_upgrade(engine(scale=old), engine(scale=new, turn=1e-4), TEXTS)
    assert (found.kind, found.exit_code) == ("normalize", 3)
    assert says in found.cause
    assert found.remedy.startswith("normalize vectors to length 1")


def test_vectors_of_another_length_are_another_model():
    found = verify_upgrade(engine(), Stub(lambda texts: [v[:2] for v in vectors(texts)]), TEXTS)
    assert (found.kind, found.search) == ("re-embed", None)
    assert found.cause.startswith("vectors had 3 numbers and have 2 now")


@pytest.mark.parametrize(
    ("how", "pick"), [("mean", lambda r: r.mean(axis=0)), ("cls", lambda r: r[0]), ("last", lambda r: r[-1])]
)
def test_how_the_old_engine_pooled_is_named_where_the_new_one_does_not(how, pick):
    rng = np.random.default_rng(0)
    rows = {t: rng.normal(size=(3 + len(t) % 4, 6)) for t in TEXTS}
    pooled, unpooled = Stub(lambda texts: [pick(rows[t]) for t in texts]), Stub(lambda texts: [rows[t] for t in texts])
    found = verify_upgrade(pooled, unpooled, TEXTS)
    assert found.kind == "re-embed"
    assert f"the new engine gives a vector for each token, and the old one for each text: the {how}" in found.cause
    assert found.remedy == f"start the new engine with --pooling {how}"
    back = verify_upgrade(unpooled, pooled, TEXTS)
    assert f"the old engine gives a vector for each token, and the new one for each text: the {how}" in back.cause


def test_a_corpus_is_searched_for_its_own_texts_or_for_queries():
    corpus = [f"document {i}" for i in range(40)]
    found = verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=corpus)
    assert (found.search.queries, found.search.documents, found.count) == (40, 40, 64)
    found = verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=corpus, queries=["who", "what", "document 3"])
    assert (found.search.queries, found.search.documents, found.count) == (3, 40, 66)
    stored = np.stack(vectors(corpus)).astype(np.float32)
    found = verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=stored)
    assert (found.search.queries, found.search.documents, len(found.search.arrangements)) == (24, 40, 1)
    with pytest.raises(RequestError, match=r"the corpus has shape \(40, 2\), the engines' vectors 3 numbers"):
        verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=stored[:, :2])


def test_no_queries_and_an_empty_corpus_are_refused():
    with pytest.raises(RequestError, match="no query that both engines take"):
        verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=TEXTS, queries=[])
    with pytest.raises(RequestError, match=r"the corpus has shape \(0, 3\)"):
        verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=np.zeros((0, 3), np.float32))


def test_ids_that_are_shown_otherwise_do_not_outweigh_equal_vectors():
    """One engine shows special tokens, the other does not."""
    found = verify_upgrade(engine(lambda t: [1, len(t), 2]), engine(lambda t: [len(t)]), TEXTS)
    assert (found.kind, found.same_tokens, found.exit_code) == ("identical", False, 0)
    found = verify_upgrade(engine(lambda t: [1, len(t), 2]), engine(lambda t: [len(t)], turn=1e-3), TEXTS)
    assert (found.kind, found.same_tokens, found.exit_code) == ("valid", False, 0)
    assert found.cause.startswith("the engines show other tokens for 24 texts, but vectors moved by at most 1.2e-10")


def written(folder, name, texts, **how):
    rows = [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors(texts, **how), strict=True)]
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return open_recording(path)


def test_a_stored_vector_of_the_query_itself_is_no_neighbor():
    """The corpus is what the old engine made of the texts: neighbors are those that texts alone have."""
    stored = np.stack(vectors(TEXTS)).astype(np.float32)
    alone = verify_upgrade(engine(), engine(turn=1e-3), TEXTS).search
    for dtype in (np.float32, np.float64):
        found = verify_upgrade(engine(), engine(turn=1e-3), TEXTS, corpus=stored.astype(dtype)).search
        assert found.gap == pytest.approx(alone.gap, rel=1e-5)
        assert found.k == alone.k
    far = verify_upgrade(engine(), engine(turn=60), TEXTS, corpus=stored)
    d = np.linalg.norm(stored[:, None] - stored[None], axis=2) / np.linalg.norm(stored[0])  # all of one length
    np.fill_diagonal(d, np.inf)
    turned = np.stack(vectors(TEXTS, turn=60))
    e = np.linalg.norm(turned[:, None] - stored[None], axis=2)
    np.fill_diagonal(e, np.inf)
    changed = sum(d[i, e[i] <= e[i].min() + 1e-6].min() > d[i].min() + 1e-6 for i in range(len(TEXTS)))
    assert far.search.arrangements[0].changed == changed > 0


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        (np.array([[1.0, 0, 0]]), "all documents at one distance"),
        (np.tile([[1.0, 2, 0.5]], (20, 1)), "all documents at one distance"),
        (np.zeros((20, 3)), "all documents at one distance"),
        (TEXTS[:1] * 20, "no document but the queries themselves"),
        (np.where(np.arange(8)[:, None] == 2, np.nan, np.eye(8, 3)), "document 2 of the corpus has numbers"),
        (np.where(np.arange(8)[:, None] == 3, np.inf, np.eye(8, 3)), "document 3 of the corpus has numbers"),
        (np.zeros((0, 3)), r"the corpus has shape \(0, 3\)"),
        (np.eye(3).astype(complex), r"the corpus is complex128 and has shape \(3, 3\)"),
    ],
)  # fmt: skip
def test_a_corpus_without_nearer_and_farther_documents_is_refused(corpus, says):
    """Nothing can be said of an index then, least of all that it stays valid."""
    with pytest.raises(RequestError, match=says):
        verify_upgrade(engine(), engine(turn=100), TEXTS, corpus=corpus)


def test_two_recordings_are_compared_on_the_texts_that_both_have(tmp_path):
    old = written(tmp_path, "old.jsonl", TEXTS[:20])
    new = written(tmp_path, "new.jsonl", TEXTS[4:][::-1], turn=1e-3)
    found = verify_upgrade(old, new)
    assert (found.kind, found.count) == ("valid", 16)
    assert found.remarks == ("8 texts that only one of the recordings has were left out",)
    with pytest.raises(RequestError, match="no text in common"):
        verify_upgrade(old, written(tmp_path, "other.jsonl", ["x", "y"]))


def test_arrays_without_texts_are_compared_row_by_row(tmp_path):
    for name, turn in (("a", 0.0), ("b", 1e-3)):
        np.save(tmp_path / f"{name}.npy", np.stack(vectors(TEXTS, turn)).astype(np.float32))
    old, new = (open_recording(tmp_path / f"{name}.npy") for name in "ab")
    assert verify_upgrade(old, new).kind == "valid"
    np.save(tmp_path / "c.npy", np.stack(vectors(TEXTS[:5])))
    with pytest.raises(RequestError, match="have 5 and 24 vectors, and no texts"):
        verify_upgrade(open_recording(tmp_path / "a.npy"), open_recording(tmp_path / "c.npy"))
    with pytest.raises(RequestError, match="does not name its texts"):
        verify_upgrade(open_recording(tmp_path / "a.npy"), engine())


def test_rows_without_texts_are_of_the_texts_that_are_given(tmp_path):
    """Also where a text stands in them twice, and where a corpus asks for some of them again."""
    texts = [*TEXTS, *TEXTS[:2]]
    for name, turn in (("a", 0.0), ("b", 1e-3)):
        np.save(tmp_path / f"{name}.npy", np.stack(vectors(texts, turn)).astype(np.float32))
    old, new = (open_recording(tmp_path / f"{name}.npy") for name in "ab")
    found = verify_upgrade(old, new, texts, corpus=TEXTS[:12], queries=TEXTS[3:5])
    assert (found.kind, found.search.queries, found.search.documents) == ("valid", 2, 12)
    named = written(tmp_path, "a.jsonl", texts)
    assert verify_upgrade(named, open_recording(tmp_path / "b.npy"), corpus=TEXTS[:12]).kind == "valid"


def test_what_was_written_down_in_float16_or_decimals_ties_within_its_steps(tmp_path):
    """Two documents 2^-13 apart: float32 parts them, float16 does not."""
    rows = np.array([[1, 0], [math.cos(2**-13), math.sin(2**-13)], [0, 1], [0.6, 0.8]])
    for dtype, changed in ((np.float32, 1), (np.float16, 0)):
        np.savez(tmp_path / "old.npz", embeddings=rows.astype(dtype), texts=["a", "b", "c", "d"])
        queries = {"a": rows[0], "b": rows[1], "c": rows[2], "d": rows[3], "q": np.array([1, -0.1])}
        moved = Stub(lambda texts, q=queries: [q[t] if t != "q" else np.array([1, 0.1]) for t in texts])
        plain = Stub(lambda texts, q=queries: [q[t] for t in texts])
        plain.info["dtype"] = np.dtype(dtype).name
        found = verify_upgrade(plain, moved, ["a"], corpus=["a", "b", "c", "d"], queries=["q"])
        assert found.search.arrangements[0].changed == changed, dtype


def test_one_text_that_moved_has_no_neighbors():
    with pytest.raises(RequestError, match="1 texts have no neighbors to compare, and their vectors moved"):
        verify_upgrade(engine(), engine(turn=1.0), TEXTS[:1])
    assert verify_upgrade(engine(), engine(), TEXTS[:1]).kind == "identical"


def test_texts_that_are_too_long_for_the_new_engine_are_left_out():
    from refembed.errors import EngineError

    def limited(texts):
        if any(len(t) > 10 for t in texts):
            error = EngineError("input is too large to process")
            error.status = 500
            raise error
        return vectors(texts, turn=1e-3)

    found = verify_upgrade(engine(), Stub(limited), TEXTS)
    assert found.count == 10  # `text no. 0` to `text no. 9`
    assert found.remarks[0].startswith("14 texts are too long for the new engine and were left out")


def test_json_has_no_infinite_numbers():
    found = verify_upgrade(engine(), engine(turn=1e-3), TEXTS).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["format"] == "refembed-upgrade-1"
    assert {"kind", "cause", "remedy", "moved", "cosine", "search", "sides", "exit_code"} <= set(found)

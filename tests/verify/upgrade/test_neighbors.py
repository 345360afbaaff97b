"""Neighbors before and after: expectations from geometry, and from plain Python's own search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.verify.upgrade import neighbors, search
from refembed.verify.upgrade.neighbors import TIE, compare_neighbors, distances, gaps, how_many, unit_rows
from refembed.verify.upgrade.search import MIXED, NEW, STORED, Collection


def circle(*degrees):
    """Unit vectors at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def chord(degrees):
    """The distance of two unit vectors with that angle between them."""
    return 2 * math.sin(math.radians(abs(degrees)) / 2)


def nearest_by_sorting(queries, documents, k):
    """The k nearest of each query, by Python's own arithmetic."""
    return [
        sorted(range(len(documents)), key=lambda i: math.dist(q, documents[i]))[:k]
        for q in queries.tolist()
    ]  # fmt: skip


def test_distances_are_chords():
    found = distances(circle(0, 90), circle(0, 60, 180) * 3)  # documents of any length
    assert found == pytest.approx(np.array([[0, 1, 2], [2**0.5, chord(30), 2**0.5]]), abs=1e-7)


def test_documents_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr(neighbors, "ROWS", 2)
    found = distances(circle(10), circle(10, 20, 40, 80, 160).astype(np.float32))
    assert found[0] == pytest.approx([0, chord(10), chord(30), chord(70), chord(150)], abs=1e-6)


@pytest.mark.parametrize(("turned", "changed"), [(9.9, []), (10.1, [0])])
def test_the_nearest_changes_where_a_query_crosses_the_bisector(turned, changed):
    """Documents at 0 and 60 degrees, a query at 20: the line between them is at 30."""
    documents = circle(0, 60, 180, 181)
    before, after = distances(circle(20), documents), distances(circle(20 + turned), documents)
    found = compare_neighbors(before, after, 1)
    assert found[0] == changed
    assert found[1] == [1 - len(changed)]
    assert found[2] == pytest.approx(chord(40) - chord(20) if changed else 0)


def test_documents_at_one_distance_have_no_order():
    """Three copies of one document, and two more as far on the other side; rounding moves them, nothing changes."""
    documents = circle(10, 10, 10, -10, -10, 90)
    before, noise = distances(circle(0), documents), np.array([[3, -3, 1, -2, 2, 0]]) * TIE / 8
    for k in range(1, 6):
        assert compare_neighbors(before, before + noise, k) == ([], [k], 0.0)
        assert compare_neighbors(before, (before + noise)[:, ::-1][:, [5, 4, 3, 2, 1, 0]], k)[0] == []
    moved = before.copy()
    moved[0, 5] = 0  # the one that was far is nearest now
    assert compare_neighbors(before, moved, 1) == ([0], [0], pytest.approx(chord(90) - chord(10)))
    assert compare_neighbors(before, moved, 5)[1] == [4]


def test_a_place_that_ties_share_is_kept_if_any_of_them_has_it():
    before = np.array([[0.1, 0.2, 0.3, 0.3, 0.3, 0.9]])
    after = np.array([[0.2, 0.1, 0.5, 0.4, 0.5, 0.9]])  # the third place was three documents', now one of them has it
    assert compare_neighbors(before, after, 3) == ([0], [3], pytest.approx(0.1))
    after[0, 5] = 0.3
    assert compare_neighbors(before, after, 3)[1] == [2]


def test_what_tied_before_may_have_an_order_after():
    """Two documents half a tie apart: whichever of them comes first then, nothing has changed."""
    before = np.array([[0.1, 0.1 + TIE / 2, 0.3, 0.3 + TIE / 2, 0.9]])
    after = np.array([[0.2, 0.1, 0.4, 0.3, 0.9]])
    assert compare_neighbors(before, after, 3) == ([], [3], 0.0)
    assert compare_neighbors(before + np.array([0, TIE, 0, TIE, 0]), after, 3)[:2] == ([0], [2])


def test_neighbors_are_those_that_sorting_finds():
    rng = np.random.default_rng(3)
    documents, queries = unit_rows(rng.normal(size=(60, 8))), unit_rows(rng.normal(size=(40, 8)))
    moved = unit_rows(queries + rng.normal(size=queries.shape) * 0.1)
    changed, kept, farther = compare_neighbors(distances(queries, documents), distances(moved, documents), 5)
    old, new = nearest_by_sorting(queries, documents, 5), nearest_by_sorting(moved, documents, 5)
    assert changed == [q for q in range(40) if old[q][0] != new[q][0]]
    assert kept == [len(set(a) & set(b)) for a, b in zip(old, new, strict=True)]
    costs = [
        math.dist(queries[q], documents[new[q][0]]) - math.dist(queries[q], documents[old[q][0]]) for q in range(40)
    ]
    assert farther == pytest.approx(max(costs))
    assert 0 < len(changed) < 40
    assert 3 < np.mean(kept) < 5


def test_gaps_part_places_that_do_not_tie():
    found = gaps(distances(circle(0), circle(10, 10, 30, -60, 100)), 3)
    assert found.first[0] == pytest.approx(chord(30) - chord(10))
    assert found.last[0] == pytest.approx(chord(60) - chord(30))
    assert gaps(distances(circle(0), circle(10, 10, 10)), 2).first[0] == np.inf


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 0.3))
def test_no_movement_below_a_quarter_of_the_gap_changes_the_nearest(seed, most):
    """The triangle inequality: each of the two distances changes by the query's movement and the document's."""
    rng = np.random.default_rng(seed)
    queries, documents = unit_rows(rng.normal(size=(12, 3))), unit_rows(rng.normal(size=(15, 3)))
    before = distances(queries, documents)
    gap, nearest = gaps(before, 1).first, before.argmin(axis=1)
    for q in np.flatnonzero(gap > 4 * most):
        rival = documents[np.argsort(before[q])[1]]
        toward = nudged(queries[q], rival, most)  # the query to the rival, the rival to it, the nearest away
        others = documents.copy()
        others[nearest[q]] = nudged(documents[nearest[q]], -queries[q], most)
        others[np.argsort(before[q])[1]] = nudged(rival, queries[q], most)
        assert compare_neighbors(before[[q]], distances(toward[None], others), 1)[0] == []


def nudged(x, toward, by):
    """x on the sphere, moved by that distance toward another vector."""
    direction = toward - x * float(x @ toward)
    length = float(np.linalg.norm(direction))
    angle = 2 * math.asin(by / 2)
    return x if length < 1e-12 else x * math.cos(angle) + direction / length * math.sin(angle)


@pytest.mark.parametrize(("share", "changes"), [(0.99, False), (1.01, True)])
def test_a_quarter_of_the_gap_is_where_it_begins(share, changes):
    """On a small piece of a circle all movements add up: -1 and 2 degrees, everything moves against the order."""
    gap = chord(2) - chord(1)
    by = math.degrees(2 * math.asin(share * gap / 8))  # an angle whose chord is a quarter of the gap
    documents, moved = circle(-1, 2), circle(-1 - by, 2 - by)
    found = compare_neighbors(distances(circle(0), documents), distances(circle(by), moved), 1)
    assert found[0] == ([0] if changes else [])


def test_three_ways_to_go_on():
    """The new engine turns everything by 40 degrees: only a new index with new queries is as it was."""
    old, new = circle(0, 30, 90, 180, 270), circle(40, 70, 130, 220, 310)
    none = (np.array([], int),) * 3
    c = Collection(circle(1, 91, 31), circle(41, 131, 71), old, new, none)
    found = {a.says: a for a in search.search(c, chord(40)).arrangements}
    assert (found[NEW].changed, found[NEW].overlap) == (0, 1)
    # among 0, 30, 90, 180, 270: of 41 it is 30, not 0; of 131 it is 90 as before; of 71 it is 90, not 30
    assert found[STORED].changed == 2
    assert found[STORED].farther == pytest.approx(chord(59) - chord(1))
    # among 0, 70, 90, 220, 270: of 41 it is the second; of 131 the third, of 71 the second, as before
    assert found[MIXED].changed == 1


def test_queries_go_in_blocks_and_do_not_find_themselves(monkeypatch):
    monkeypatch.setattr(neighbors, "CELLS", 12)
    vectors = circle(0, 1, 10, 50, 90, 200)
    own = tuple(np.array([i]) for i in range(6))
    c = Collection(vectors, vectors, vectors, vectors, own)
    found = search.search(c, 0.0)
    assert (found.queries, found.documents, found.k) == (6, 6, 2)
    assert [(a.changed, a.overlap) for a in found.arrangements] == [(0, 1.0)] * 3
    gaps_by_hand = sorted([chord(10) - chord(1), chord(9) - chord(1), chord(10) - chord(9),
                           chord(49) - chord(40), chord(80) - chord(40), chord(150) - chord(110)])  # fmt: skip
    assert found.gap == pytest.approx(gaps_by_hand[2], rel=1e-6)
    assert found.certain == 6


def test_as_many_neighbors_as_documents_allow():
    assert [how_many(n) for n in (1, 2, 5, 20, 21, 10**7)] == [1, 1, 2, 10, 10, 10]

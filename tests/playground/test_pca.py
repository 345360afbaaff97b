"""Principal components by np.linalg.svd, and planes that are turned, not bent."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.playground.pca import components, nearest, planes, turned


def states(T: int, C: int, seed: int = 0) -> np.ndarray:
    """Rows that differ more in some directions than in others, far from the origin."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(T, C)) @ np.diag(0.7 ** np.arange(C)) + 5


@pytest.mark.parametrize(("T", "C"), [(2, 8), (7, 384), (40, 16), (128, 64)])
def test_components_are_those_of_the_singular_value_decomposition(T: int, C: int) -> None:
    x = states(T, C)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    points, kept = components(x)
    for k in range(min(2, T - 1)):
        sign = np.sign(points[:, k] @ u[:, k])
        np.testing.assert_allclose(points[:, k] * sign, u[:, k] * s[k], atol=1e-12 * s[0])  # measured: 1.4e-15
    assert kept == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_components_of_tiny_and_huge_numbers(scale: float) -> None:
    points, kept = components(states(9, 5))
    scaled, same = components(states(9, 5) * scale)
    np.testing.assert_allclose(scaled / scale, points, rtol=1e-9, atol=1e-12)
    assert same == pytest.approx(kept)


def test_rows_that_do_not_differ_lie_in_one_point() -> None:
    for x in (np.ones((4, 3)), np.ones((1, 3)), np.zeros((2, 3))):
        points, kept = components(x)
        assert points.tolist() == [[0.0, 0.0]] * len(x)
        assert kept == 1


def test_a_turned_plane_keeps_its_distances_and_no_other_turn_is_nearer() -> None:
    """Orthogonal Procrustes, against every angle and mirror image of a fine grid."""
    a, b = states(6, 2, 1), states(6, 2, 2)
    found = turned(b, a)
    far = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (b, found)]
    np.testing.assert_allclose(far[1], far[0], atol=1e-12)
    least = min(
        np.linalg.norm(b @ np.array([[np.cos(t), -np.sin(t) * m], [np.sin(t), np.cos(t) * m]]) - a)
        for t in np.linspace(0, 2 * np.pi, 2000)
        for m in (1, -1)
    )
    assert np.linalg.norm(found - a) <= least


def test_planes_follow_each_other() -> None:
    """The same states, rotated in their space and mirrored, stay where they were."""
    x = states(8, 5)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    first, second = planes([x, -x @ rotation])
    np.testing.assert_allclose(second.points, first.points, atol=1e-9)
    assert second.kept == pytest.approx(first.kept)


def test_the_nearest_is_by_cosine_and_never_itself() -> None:
    x = np.array([[1.0, 0], [10, 1], [0, 1], [-1, 5]])
    assert [j for j, _ in nearest(x)] == [1, 0, 3, 2]
    assert nearest(x)[0][1] == pytest.approx(10 / np.sqrt(101))
    assert nearest(x[:1]) == []

"""Hidden states of a layer in a plane: their first two principal components (Pearson 1901; Hotelling 1933).

Components are found anew in each layer. They are fixed up to their signs, and where two are alike up to a rotation; so
each plane is turned, and mirrored if need be, to where the tokens are nearest to the layer before (Schönemann 1966,
orthogonal Procrustes). That changes no distance within a plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refembed.arrays import F64


@dataclass(frozen=True)
class Plane:
    """The tokens of one layer in two dimensions."""

    points: F64  # (T, 2)
    kept: float  # share of the variance over tokens that the plane holds, 0 to 1; 1 where there is none


def planes(hidden: Sequence[F64]) -> list[Plane]:
    """A plane for each layer's states (T, C).

    >>> square = np.array([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [4, 2, 0]])
    >>> plane = planes([square])[0]  # it lies in a plane: nothing is lost
    >>> plane.kept, bool(np.isclose(np.linalg.norm(plane.points[3] - plane.points[0]), np.sqrt(20)))
    (1.0, True)
    """
    found: list[Plane] = []
    for x in hidden:
        points, kept = components(x)
        found.append(Plane(turned(points, found[-1].points) if found else points, kept))
    return found


def components(x: F64) -> tuple[F64, float]:
    """The first two principal components (T, 2) of rows x (T, C), and their share of the variance.

    Of the centered rows X = U S Vᵀ they are the first columns of U S, and X Xᵀ = U S² Uᵀ is small: T by T.
    """
    centered = np.nan_to_num(x - x.mean(axis=0))
    size = np.abs(centered).max(initial=0.0)
    if size == 0.0:
        return np.zeros((len(x), 2)), 1.0
    squares, u = np.linalg.eigh((centered / size) @ (centered / size).T)  # ascending
    squares = np.maximum(squares, 0.0)
    points = np.zeros((len(x), 2))
    n = min(2, len(x))
    points[:, :n] = (u[:, ::-1] * np.sqrt(squares[::-1]))[:, :n] * size
    return points, float(squares[::-1][:2].sum() / squares.sum())


def turned(points: F64, before: F64) -> F64:
    """The points (T, 2), turned or mirrored to lie as near to those before as can be; of other tokens, as they are."""
    if points.shape != before.shape:
        return points
    u, _, v = np.linalg.svd(points.T @ before)
    return points @ (u @ v)


def nearest(x: F64) -> list[tuple[int, float]]:
    """(T) for each row of x (T, C) the other row that is nearest by cosine, and that cosine; none for a single row."""
    if len(x) < 2:
        return []
    unit = np.nan_to_num(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300))
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    best = cosines.argmax(axis=1)
    return [(int(j), float(cosines[i, j])) for i, j in enumerate(best)]

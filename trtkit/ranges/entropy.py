"""Histogram -> clipping threshold whose quantized distribution tells the least information from the original apart.

The method of "8-bit Inference with TensorRT" (S. Migacz, GTC 2017): count magnitudes in linear bins, and for each
candidate threshold compare P (the bins below it, with everything beyond added to the last) with Q (the same bins
merged into as many groups as the grid has positive codes, spread evenly over the bins of a group that are not empty)
by the Kullback-Leibler divergence. Because Q is constant within a group,

    KL(P||Q) = 1/T * (sum p log p - sum_g P_g log(H_g / n_g)) - log T + log S

with T all mass, S the mass inside, and H_g, n_g mass and non-empty bins of group g; each is a difference of cumulative
sums, so all candidates are computed at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trtkit.ranges.histogram import Histogram

__all__ = ["threshold"]

Floats = NDArray[np.float64]

_BINS_PER_GROUP = 16  # 2048 bins for 128 groups, as in the paper
_CANDIDATES = 1024
_LEAST_MASS = 1e-4  # of Q where P is not empty, in counts


def threshold(histogram: Histogram, *, groups: int) -> float:
    """Return the magnitude at which to clip, > 0 and at most the largest that occurs.

    Args:
        histogram: Of at least one value that is not zero.
        groups: Positive codes of the grid: 128 for INT8, 256 for UINT8 and one-sided data.
    """
    bins = groups * _BINS_PER_GROUP
    mass = _linear_bins(histogram, bins)
    divergence = _divergences(mass, groups)
    ends = _candidates(groups)
    return float(ends[int(np.argmin(divergence))] / bins * histogram.amax)


def _linear_bins(histogram: Histogram, bins: int) -> Floats:
    """Return the mass of |x| in `bins` equal bins from 0 to amax: each log-spaced bin is spread evenly.

    Exact zeros are left out, since every grid holds them exactly.
    """
    low, high, counts = histogram.intervals()
    edges = np.linspace(0.0, histogram.amax, bins + 1)
    up, down = low > 0, high < 0  # the two bins that touch 0 hold zeros and what no grid tells from them
    below = _below(low[up], high[up], counts[up], edges)
    below += _below(-high[down][::-1], -low[down][::-1], counts[down][::-1], edges)
    return np.diff(below)


def _below(inner: Floats, outer: Floats, counts: Floats, edges: Floats) -> Floats:
    """Return the mass below each edge, for ascending bins that do not overlap; one without width is a step."""
    if not counts.size:
        return np.zeros_like(edges)
    inner = np.where(outer > inner, inner, inner * (1 - 1e-12))
    total = counts.cumsum()
    points, mass = np.stack([inner, outer], axis=1), np.stack([total - counts, total], axis=1)
    return np.asarray(np.interp(edges, points.reshape(-1), mass.reshape(-1)))


@lru_cache(maxsize=8)
def _candidates(groups: int) -> NDArray[np.int64]:
    """Return how many bins each candidate keeps, ascending, the last one all of them."""
    bins = groups * _BINS_PER_GROUP
    return np.unique(np.linspace(groups, bins, min(_CANDIDATES, bins - groups + 1)).astype(np.int64))


@lru_cache(maxsize=4)
def _group_edges(groups: int) -> NDArray[np.int64]:
    """Return where each group of each candidate begins and ends, shape (candidates, groups + 1)."""
    return _candidates(groups)[:, None] * np.arange(groups + 1) // groups


def _divergences(mass: Floats, groups: int) -> Floats:
    ends, edges = _candidates(groups), _group_edges(groups)
    mass = np.where(mass > 1e-9 * mass.sum() / mass.size, mass, 0.0)  # rounding dust of the spreading
    below = np.concatenate([[0.0], mass.cumsum()])
    occupied = np.concatenate([[0], (mass > 0).cumsum()])
    self_information = _xlogx(mass).cumsum()
    total, inside = below[-1], below[ends]
    clipped = np.maximum(total - inside, 0.0)
    last = mass[ends - 1]
    group_mass, group_bins = np.diff(below[edges], axis=1), np.diff(occupied[edges], axis=1)
    group_bins[:, -1] += (last == 0) & (clipped > 0)  # there P is not empty, so Q must not be
    log_q = np.log(np.maximum(group_mass, _LEAST_MASS) / np.maximum(group_bins, 1))
    cross = (group_mass * log_q).sum(axis=1) + clipped * log_q[:, -1]
    own = self_information[ends - 1] + _xlogx(last + clipped) - _xlogx(last)
    divergence = (own - cross) / total + np.log(np.maximum(inside, _LEAST_MASS) / total)
    return np.where(inside > 0, divergence, np.inf)


def _xlogx(x: Floats) -> Floats:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))

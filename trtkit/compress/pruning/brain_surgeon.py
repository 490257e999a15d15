"""Weights + second moments of their inputs -> 2:4 sparse weights with the least error in the outputs.

Optimal Brain Surgeon (Hassibi and Stork 1993) row by row, in the order and with the shared inverse Hessian of SparseGPT
(Frantar and Alistarh 2023, algorithm 1): with U the upper Cholesky factor of H^-1, taking w_j out costs
(w_j / U_jj)^2 / 2, and the weights behind it move by -w_j / U_jj * U_j,: to make up for it.
"""

from __future__ import annotations

import torch

__all__ = ["least_of_four", "prune_by_error"]

_BLOCK = 128
_DAMPING = 0.01


def least_of_four(scores: torch.Tensor) -> torch.Tensor:
    """Return True for the two highest of each four neighbouring columns, shape (rows, columns) as `scores`."""
    fours = scores.reshape(len(scores), -1, 4)
    return torch.ones_like(fours, dtype=torch.bool).scatter(2, fours.topk(2, largest=False).indices, False).view(
        scores.shape)


def prune_by_error(weights: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the remaining weights, moved to make up for those that went, and which remain.

    Args:
        weights: (rows, columns), float32; columns in fours.
        moments: X^T X of the inputs up to a factor, (columns, columns); or its diagonal (columns,): then weights are
            chosen by |w| * |x| (Sun et al. 2023, "Wanda") and not moved.

    Returns:
        Weights of the same shape, and bool in that shape; two of four neighbours remain.
    """
    if moments.ndim == 1:
        kept = least_of_four(weights.square() * moments)
        return weights * kept, kept
    factor = _inverse_factor(moments)
    weights, kept = weights.clone(), torch.ones_like(weights, dtype=torch.bool)
    for start in range(0, weights.shape[1], _BLOCK):
        end = min(start + _BLOCK, weights.shape[1])
        block, inner = weights[:, start:end], factor[start:end, start:end]
        errors = torch.empty_like(block)
        for column in range(end - start):
            if column % 4 == 0:
                four = slice(column, column + 4)
                kept[:, start:end][:, four] = least_of_four((block[:, four] / inner.diagonal()[four]).square())
            gone = ~kept[:, start + column]
            errors[:, column] = block[:, column] * gone / inner[column, column]
            block[:, column:] -= errors[:, column:column + 1] * inner[column, column:]
            block[gone, column] = 0
        weights[:, end:] -= errors @ factor[start:end, end:]
    return weights, kept


def _inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse; damped, and more so until it exists."""
    damping, unit = _DAMPING, moments.diagonal().mean()
    eye = torch.eye(len(moments), device=moments.device)
    if not bool(unit > 0):
        return eye
    while True:
        lower, failed = torch.linalg.cholesky_ex(moments / unit + damping * eye)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper
        damping *= 10

from __future__ import annotations

import numpy as np
import pytest

TEXT = "g (float[N, 3, 4, 5] x) => (float[N, C, H, W] y) {{ y = ReduceMean{}(x) }}"


@pytest.mark.parametrize("axes", ["<axes = [2, 3]>", "<axes = [-1, -2], keepdims = 1>"])
def test_spatial_mean_becomes_global_pool(parse, rewritten, ops, axes: str) -> None:
    assert ops(rewritten(parse(TEXT.format(axes)), "fuse-global-pool").model) == {"GlobalAveragePool": 1}


@pytest.mark.parametrize("axes", ["<axes = [3]>", "<axes = [1, 2]>", ""])
def test_other_means_stay(parse, rewritten, ops, axes: str) -> None:
    assert ops(rewritten(parse(TEXT.format(axes)), "fuse-global-pool").model) == {"ReduceMean": 1}


def test_mean_that_drops_axes_stays(parse, rewritten) -> None:
    model = parse("g (float[N, 3, 4, 5] x) => (float[N, 3] y) { y = ReduceMean<keepdims = 0>(x, a) }", opset=18,
                  a=np.array([2, 3]))
    assert "drops the axes" in rewritten(model, "fuse-global-pool").results[0][1].refusals[0]

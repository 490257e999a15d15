from __future__ import annotations

import numpy as np


def test_equal_initializers_merge(parse, rewritten) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { h = Add(x, a) y = Add(h, b) }",
                  a=np.ones(2, np.float32), b=np.ones(2, np.float32))
    done = rewritten(model, "merge-initializers")
    assert len(done.model.graph.initializer) == 1
    assert done.changes == 1


def test_initializers_stay_when_type_shape_or_bytes_differ(parse, rewritten) -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y, int32[1] z) "
                  "{ h = Add(x, a) i = Add(h, b) y = Sub(i, d) z = Add(c, c) }",
                  a=np.ones(1, np.float32), b=np.ones((1, 1), np.float32), c=np.ones(1, np.int32),
                  d=np.full(1, -0.0, np.float32))
    done = rewritten(model, "merge-initializers")
    assert done.changes == 0
    assert len(done.model.graph.initializer) == 4

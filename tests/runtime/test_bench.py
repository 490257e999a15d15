from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.runtime import Session, bench, paired, random_feeds
from trtkit.runtime.bench import _interval_rank, shortest
from trtkit.runtime.conditions import conditions
from trtkit.tensors import Array, Feeds, TensorSpec

Fake = Callable[[], Session]


class Slower:
    """A session that takes so much longer."""

    def __init__(self, session: Session, seconds: float) -> None:
        self.inner, self.seconds = session, seconds
        self.inputs, self.outputs, self.backend = session.inputs, session.outputs, "slower"
        self.runs = 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        self.runs += 1
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return self.inner.run(feeds)

    def run_into(self, feeds: Feeds, outputs: object) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.inner.close()


def test_bench_measures_what_a_run_takes(fake_session: Fake) -> None:
    session = Slower(fake_session(), 0.002)
    result = bench(session, random_feeds(session.inputs, batch=4), seconds=0.1, warmup=0.01, size_bytes=123)
    assert 2.0 <= result.p50_ms <= result.p90_ms <= result.p99_ms
    assert result.mean_ms >= 2.0
    assert result.throughput == pytest.approx(4000 / result.mean_ms)
    assert (result.batch, result.size_bytes) == (4, 123)
    assert 10 <= result.runs <= 50


def test_bench_runs_as_often_as_asked(fake_session: Fake) -> None:
    session = Slower(fake_session(), 0.0)
    result = bench(session, random_feeds(session.inputs), iterations=7, warmup=0)
    assert (result.runs, session.runs) == (7, 9)


def test_bench_result_is_json_and_carries_its_conditions(fake_session: Fake) -> None:
    session = fake_session()
    result = bench(session, random_feeds(session.inputs), iterations=3, warmup=0, extra_conditions={"threads": 2})
    row = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert row["conditions"]["threads"] == 2
    assert row["conditions"]["copies_included"] is True
    assert {"backend", "cpu", "cores", "numpy", "trtkit", "load"} <= set(row["conditions"])


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"iterations": 0}, {"warmup": -1}], ids=str)
def test_bench_refuses_to_measure_nothing(fake_session: Fake, wrong: dict[str, float]) -> None:
    session = fake_session()
    with pytest.raises(SpecError):
        bench(session, random_feeds(session.inputs), **wrong)  # type: ignore[arg-type]


def test_paired_finds_the_faster_one(fake_session: Fake) -> None:
    slow, fast = Slower(fake_session(), 0.003), Slower(fake_session(), 0.001)
    result = paired(slow, fast, random_feeds(slow.inputs), seconds=0.4, rounds=8)
    assert result.b_is_faster
    assert not result.b_is_slower
    assert result.low <= result.ratio <= result.high
    assert 2.0 < result.ratio < 4.0
    assert result.a_ms > result.b_ms
    assert paired(fast, slow, random_feeds(slow.inputs), seconds=0.4, rounds=8).b_is_slower


def test_paired_is_not_misled_by_disturbed_rounds(fake_session: Fake) -> None:
    class Disturbed(Slower):
        def run(self, feeds: Feeds) -> dict[str, Array]:
            self.seconds = 0.008 if 20 < self.runs < 26 else 0.001
            return super().run(feeds)

    steady, disturbed = Slower(fake_session(), 0.002), Disturbed(fake_session(), 0.001)
    result = paired(steady, disturbed, random_feeds(steady.inputs), seconds=0.3, rounds=15)
    assert result.b_is_faster


def test_paired_refuses_too_few_rounds(fake_session: Fake) -> None:
    with pytest.raises(SpecError, match="at least 6 rounds"):
        paired(fake_session(), fake_session(), random_feeds(fake_session().inputs), rounds=5)


@pytest.mark.parametrize("n", range(6, 60))
def test_interval_rank_is_the_largest_that_keeps_95_percent(n: int) -> None:
    def outside(k: int) -> float:
        return 2 * sum(comb(n, i) for i in range(k)) / 2**n

    k = _interval_rank(n)
    assert outside(k) <= 0.05 < outside(k + 1)


def test_random_feeds_fit_dtype_and_batch() -> None:
    feeds = random_feeds((TensorSpec("a", "uint8", ("n", 200)), TensorSpec("b", "float16", ("n", 2)),
                          TensorSpec("c", "int64", (5,))), batch=3)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "a": ((3, 200), "uint8"), "b": ((3, 2), "float16"), "c": ((5,), "int64")}
    assert feeds["a"].max() > 128
    assert set(feeds["c"].tolist()) <= {0, 1}
    np.testing.assert_array_equal(feeds["a"], random_feeds((TensorSpec("a", "uint8", ("n", 200)),), batch=3)["a"])


def test_conditions_read_governor_and_power_mode(tmp_path: Path) -> None:
    for name, text in {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
                       "var/lib/nvpmodel/status": "pmode:0002\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    facts = conditions("ort", tmp_path)
    assert (facts["governor"], facts["power_mode"], facts["backend"]) == ("performance", "pmode:0002", "ort")


def test_peak_memory_grows_with_what_is_used() -> None:
    code = """
import numpy as np
from trtkit.runtime.conditions import peak_memory_bytes
before = peak_memory_bytes()
del_me = np.ones(256 << 20, np.uint8)
del del_me
assert before + (200 << 20) < peak_memory_bytes() < before + (300 << 20), (before, peak_memory_bytes())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shortest_gives_each_session_its_least_run_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, feeds: object) -> None:
            turns.append(self.name)

    clock = iter([9e9, 4e9, 5e9, 8e9, 6e9, 7e9, 3e9, 9e9, 9e9, 5e9, 6e9, 7e9])
    module = sys.modules["trtkit.runtime.bench"]  # as an attribute of the package it is the function
    monkeypatch.setattr(module, "time_runs", lambda session, feeds, **_: [next(clock) for _ in range(3)])
    assert shortest([(Named("a"), {}), (Named("b"), {})], seconds=1.0, rounds=2) == [3.0, 5.0]
    assert turns == ["a", "b", "a", "b"]

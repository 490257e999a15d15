from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Trtkit = Callable[..., str]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("trtkit.runtime.tuning.thread_counts", lambda: (1,))


def test_tune_prints_the_table_and_run_takes_the_winner(bundle: Path, picture: Path, trtkit: Trtkit) -> None:
    printed = trtkit("tune", bundle, "--seconds", "0.1", "--device", "cpu")
    for what in ("p50 ms", "times the best", "fp32", "From now on this machine runs", "1 thread)"):
        assert what in printed
    assert "the fastest measured on this machine" in trtkit("run", bundle, picture, "--device", "cpu")


def test_tune_prints_json(bundle: Path, trtkit: Trtkit) -> None:
    (row,) = json.loads(trtkit("tune", bundle, "--seconds", "0.1", "--device", "cpu", "--json"))  # one file for two
    assert (row["threads"], row["in_turns"], row["error"]) == (1, True, "")
    assert row["p50_ms"] > 0

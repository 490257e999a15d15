from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from trtkit.bundle import BundleManifest, CompressionRow
from trtkit.bundle.compression import shared_metric
from trtkit.errors import BundleError, SpecError

START = CompressionRow("start", "map", 0.85, 1_000_000, 50_000, 200_000, 12.5, None)
QAT = CompressionRow("qat", "map", None, 500_000, 20_000, 25_000, None, 3.0)


def test_row_survives_a_round_trip() -> None:
    for row in (START, QAT):
        assert CompressionRow.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("change", [
    {"step": ""}, {"score": float("nan")}, {"macs": -1}, {"parameters": -1}, {"size_bytes": -1}, {"fp32_ms": 0.0},
    {"int8_ms": float("inf")},
], ids=str)
def test_row_refuses_unusable_values(change: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=str(next(iter(change.values()))) or "no name"):
        replace(START, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"macs": "many"}, {"score": "good"}, {"colour": 1}], ids=str)
def test_from_json_refuses_a_strange_value(change: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(change))):
        CompressionRow.from_json({**START.to_json(), **change})


def test_manifest_keeps_the_rows_in_order(manifest: BundleManifest) -> None:
    full = replace(manifest, compression=(START, QAT))
    assert BundleManifest.from_bytes(full.to_bytes()).compression == (START, QAT)


def test_manifest_has_no_rows_when_it_was_written_without_them(manifest: BundleManifest) -> None:
    assert "compression" not in json.loads(manifest.to_bytes())
    assert BundleManifest.from_bytes(manifest.to_bytes()).compression == ()


def test_manifest_is_refused_when_a_row_is_strange(manifest: BundleManifest) -> None:
    body = {**manifest.to_json(), "compression": [{**START.to_json(), "macs": -5}]}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    with pytest.raises(BundleError, match="macs is -5"):
        BundleManifest.from_bytes(json.dumps({**body, "digest": digest}).encode())


def test_shared_metric_is_that_of_all_rows() -> None:
    assert shared_metric([START, QAT]) == "map"


def test_shared_metric_refuses_several_metrics_and_no_rows() -> None:
    with pytest.raises(SpecError, match=r"\['map', 'top1'\]"):
        shared_metric([START, replace(QAT, metric="top1")])
    with pytest.raises(SpecError, match="0 compression rows"):
        shared_metric([])

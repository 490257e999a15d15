import numpy as np
import pytest

from trtkit.calib import Finding, Severity, audit, open_data
from trtkit.preprocess import Preprocess
from trtkit.ranges import CalibrationTable, Histogram
from trtkit.tensors import TensorSpec

SPEC = TensorSpec("input", "float32", ("batch", 3, 16, 16))
RNG = np.random.default_rng(5)


def pictures(count: int = 120) -> np.ndarray:
    """Smooth pictures with values from 0 to 1 and channels that differ, (N, 16, 16, 3)."""
    ramp = np.linspace(0, 1, 16)
    coarse = RNG.random((count, 1, 1, 3)) * ramp[:, None, None] + RNG.random((count, 1, 1, 3)) * ramp[None, :, None]
    coarse = coarse / 2 * np.array([1.0, 0.6, 0.2]) + RNG.normal(0, 0.005, (count, 16, 16, 3))
    coarse[:, 0, 0] = 1
    return np.clip(coarse, 0, 1).astype(np.float32)


def findings(batch: np.ndarray, preprocess: Preprocess | None = None, **tensors: np.ndarray) -> list[Finding]:
    histograms = {"input": Histogram.of(batch), **{k: Histogram.of(v) for k, v in tensors.items()}}
    table = CalibrationTable(histograms, len(batch), "m", "d", "p")
    return audit(table, inputs=[SPEC], data=open_data(batch, input=SPEC), preprocess=preprocess)


def good(count: int = 120) -> np.ndarray:
    return np.ascontiguousarray(pictures(count).transpose(0, 3, 1, 2))


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


PLAIN = Preprocess((16, 16))


@pytest.mark.parametrize("preprocess", [None, PLAIN], ids=["unknown", "known"])
def test_audit_is_silent_when_all_is_well(preprocess: Preprocess | None) -> None:
    assert findings(good(), preprocess, hidden=RNG.standard_normal(5000)) == []


@pytest.mark.parametrize("preprocess", [None, PLAIN], ids=["unknown", "known"])
def test_audit_reports_a_missing_division_by_255(preprocess: Preprocess | None) -> None:
    finding = only(findings(good() * 255, preprocess))
    assert finding.severity is Severity.ERROR
    assert finding.where == "input"
    assert "255" in finding.message


@pytest.mark.parametrize("preprocess", [None, PLAIN], ids=["unknown", "known"])
def test_audit_reports_a_scale_applied_twice(preprocess: Preprocess | None) -> None:
    assert "twice" in only(findings(good() / 255, preprocess)).message


def test_audit_accepts_raw_pixels_when_the_model_takes_them() -> None:
    assert findings(good() * 255, Preprocess((16, 16), scale=1.0)) == []


def test_audit_reports_pixels_reshaped_to_the_other_layout() -> None:
    finding = only(findings(pictures().reshape(-1, 3, 16, 16)))
    assert finding.severity is Severity.ERROR
    assert "other layout" in finding.message


def test_audit_is_silent_on_noise() -> None:
    assert findings(RNG.random((120, 3, 16, 16)).astype(np.float32)) == []


def test_audit_reports_too_few_samples() -> None:
    assert "only 20 samples" in only(findings(good(20))).message


def test_audit_reports_constant_samples() -> None:
    batch = good()
    batch[::3] = np.linspace(0, 1, 40)[:, None, None, None]
    found = [f for f in findings(batch) if "constant" in f.message]
    assert only(found).severity is Severity.WARNING


@pytest.mark.parametrize(("copies", "severity"), [(30, Severity.WARNING), (119, Severity.ERROR)])
def test_audit_reports_duplicate_samples(copies: int, severity: Severity) -> None:
    batch = good()
    batch[:copies] = batch[0]
    assert only([f for f in findings(batch) if "repeat another" in f.message]).severity is severity


def test_audit_reports_dead_exploding_and_outlying_tensors() -> None:
    spiky = RNG.standard_normal(50_000)
    spiky[0] = 5000
    found = findings(good(), dead=np.zeros(50), huge=RNG.standard_normal(500) * 1e5, spiky=spiky)
    assert [(f.where, f.severity) for f in found] == [
        ("dead", Severity.WARNING), ("huge", Severity.WARNING), ("spiky", Severity.WARNING)]
    assert "all 50 values are zero" in found[0].message


def test_audit_puts_errors_first() -> None:
    found = findings(good(20) * 255, dead=np.zeros(5))
    assert found[0].severity is Severity.ERROR
    assert {f.severity for f in found[1:]} == {Severity.WARNING}

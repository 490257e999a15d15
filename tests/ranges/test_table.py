from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import CalibrationError, SpecError
from trtkit.ranges import CalibrationTable, ChannelRange, ChannelSums, Histogram


def table(seed: int = 0, data: str = "d", samples: int = 3) -> CalibrationTable:
    rng = np.random.default_rng(seed)
    tensors = {name: Histogram.of(rng.standard_normal(400) * scale) for name, scale in (("x", 1), ("y/é", 1e-3))}
    tensors["big"] = Histogram(np.array([0, 0x3F80], np.uint16), np.array([5, 1 << 40], np.uint64), 0.0, 1.0)
    tensors["none"] = Histogram.empty()
    return CalibrationTable(tensors, samples, "model", data, "prep")


def with_channels(seed: int = 0) -> CalibrationTable:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((2, 3, 5)).astype(np.float32)
    return replace(table(seed), channels={"x": ChannelSums.of(values.mean(axis=2))},
                   channel_ranges={"x": ChannelRange.of(values, 1), "y/é": ChannelRange.of(values, -1)})


def test_channels_survive_saving_and_merge_whatever_the_order(tmp_path: Path) -> None:
    one, two = with_channels(1), with_channels(2)
    one.save(tmp_path / "t.calib")
    assert CalibrationTable.load(tmp_path / "t.calib") == one
    merged = one.merge(two)
    assert merged.to_bytes() == two.merge(one).to_bytes()
    np.testing.assert_array_equal(merged.channel_ranges["x"].high, np.maximum(one.channel_ranges["x"].high,
                                                                              two.channel_ranges["x"].high))
    with pytest.raises(CalibrationError, match="in one table only"):
        one.merge(table(2))


def test_scaled_table_has_the_exact_ranges_of_the_scaled_tensor() -> None:
    values = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    factors = np.array([0.5, 2.0, 4.0], np.float32)
    before = replace(table(), channels={"x": ChannelSums.of(values.mean(axis=2))},
                     channel_ranges={"x": ChannelRange.of(values, 1)})
    scaled = values * factors[:, None]
    after = before.with_scaled("x", factors)
    assert after.channel_ranges["x"] == ChannelRange.of(scaled, 1)
    assert after.tensors["x"].is_bare_range
    assert (after.tensors["x"].min, after.tensors["x"].max) == (float(scaled.min()), float(scaled.max()))
    np.testing.assert_allclose(after.channel_means("x"), scaled.mean(axis=(0, 2)), atol=1e-5)
    assert after.tensors["big"] == before.tensors["big"]


def test_load_returns_what_save_wrote(tmp_path: Path) -> None:
    table().save(tmp_path / "t.calib")
    loaded = CalibrationTable.load(tmp_path / "t.calib")
    assert loaded == table()
    assert (loaded.samples, loaded.model, loaded.data, loaded.preprocess) == (3, "model", "d", "prep")


def test_same_content_gives_same_bytes_whatever_the_order() -> None:
    one = table()
    other = replace(one, tensors=dict(reversed(list(one.tensors.items()))))
    assert one.to_bytes() == other.to_bytes()


def test_merge_adds_and_does_not_depend_on_the_order() -> None:
    one, two, three = (table(seed, data=str(seed)) for seed in range(3))
    merged = one.merge(two).merge(three)
    assert merged.to_bytes() == three.merge(two.merge(one)).to_bytes()
    assert merged.samples == 9
    assert merged.data == "0+1+2"
    assert merged.tensors["x"].total == 1200


@pytest.mark.parametrize("changed", [{"model": "else"}, {"preprocess": "else"}], ids=["model", "preprocess"])
def test_merge_fails_when_made_from_something_else(changed: dict) -> None:
    with pytest.raises(CalibrationError, match="cannot be merged"):
        table().merge(replace(table(), **changed))


def test_merge_fails_when_tensors_differ() -> None:
    with pytest.raises(CalibrationError, match="1 tensors are in one table only, such as 'big'"):
        table().merge(replace(table(), tensors={k: v for k, v in table().tensors.items() if k != "big"}))


@pytest.mark.parametrize("what", ["model", "preprocess", "data"])
def test_check_fails_when_stale_and_passes_when_not(what: str) -> None:
    fresh = table()
    fresh.check(model="model", preprocess="prep", data="d")
    fresh.check()
    with pytest.raises(CalibrationError, match=f"for {what} .* stale"):
        fresh.check(**{what: "other"})


@pytest.mark.parametrize("keep", [0, 4, 20, 100, -1], ids=lambda n: f"{n} bytes")
def test_load_fails_when_truncated(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.calib"
    path.write_bytes(table().to_bytes()[:keep])
    with pytest.raises(CalibrationError, match=r"t\.calib"):
        CalibrationTable.load(path)


def test_load_fails_when_one_bit_changed(tmp_path: Path) -> None:
    data = bytearray(table().to_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "t.calib").write_bytes(data)
    with pytest.raises(CalibrationError, match="truncated or was changed"):
        CalibrationTable.load(tmp_path / "t.calib")


def test_load_fails_when_foreign_or_missing(tmp_path: Path) -> None:
    (tmp_path / "t.calib").write_text("TRT-8502-EntropyCalibration2\n")
    with pytest.raises(CalibrationError, match="no calibration table"):
        CalibrationTable.load(tmp_path / "t.calib")
    with pytest.raises(CalibrationError, match="cannot be read"):
        CalibrationTable.load(tmp_path / "absent.calib")


def test_save_fails_clearly_when_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written"):
        table().save(tmp_path / "no" / "t.calib")

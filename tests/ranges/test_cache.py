"""NVIDIA's calibration cache, written and read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.errors import CalibrationError
from trtkit.ranges.cache import cache_algorithm, format_cache, parse_cache, version_number

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)


@pytest.mark.parametrize(("version", "number"), [
    ("8.5.2", 8502), ("8.5", 8500), ("8.6.1.6", 8601), ("10.3.0", 100300), ("10.3", 100300), ("10.13.2", 101302),
])
def test_version_number_is_that_of_the_headers(version: str, number: int) -> None:
    assert version_number(version) == number


def test_format_cache_writes_the_bits_most_significant_first() -> None:
    cache = format_cache({"input": struct.unpack(">f", bytes.fromhex("3c010a14"))[0], "one": 1.0}, "8.5.2")
    assert cache == b"TRT-8502-EntropyCalibration2\ninput: 3c010a14\none: 3f800000\n"


@given(st.dictionaries(NAMES, st.floats(2.0**-120, 2.0**100, width=32)))
def test_cache_round_trip_keeps_names_and_bits(scales: dict[str, float]) -> None:
    assert parse_cache(format_cache(scales, "10.3")) == scales


def test_parse_cache_splits_at_the_last_colon() -> None:
    scales = {"a: b": 0.5, "model/x:0": 0.25, "(Unnamed Layer* 3) [Shuffle]_output": 2.0, " lead": 1.0, "c:": 4.0}
    assert parse_cache(format_cache(scales, "8.5.2")) == scales


def test_parse_cache_reads_windows_lines_and_short_numbers() -> None:
    assert parse_cache(b"TRT-100300-MinMaxCalibration\r\nx: 3f800000\r\nz: 0\r\n") == {"x": 1.0, "z": 0.0}


@pytest.mark.parametrize(("data", "says"), [
    pytest.param(b"", "begins with ''", id="empty"),
    pytest.param(b"x: 3f800000\n", "begins with 'x: 3f800000'", id="no-header"),
    pytest.param(b"\x80\x05pickle", "no TensorRT calibration cache", id="binary"),
    pytest.param(b"TRT-8502-E\nx: 3f800000\njunk\n", "Line 3 .* 'junk'", id="no-colon"),
    pytest.param(b"TRT-8502-E\nx: zz\n", "Line 2 .* 'x: zz'", id="no-number"),
    pytest.param(b"TRT-8502-E\nx: 3f8000001\n", "Line 2", id="too-long"),
    pytest.param(b"TRT-8502-E\nx: -1\n", "Line 2", id="negative"),
    pytest.param(b"TRT-8502-E\nx:3f800000\n", "Line 2", id="no-space"),
    pytest.param(b"TRT-8502-E\nx: 3f_80\n", "Line 2", id="underscore"),
    pytest.param(b"TRT-8502-E\n: 3f800000\n", "Line 2", id="no-name"),
    pytest.param(b"TRT-8502-E\n\nx: 3f800000\n", "Line 2", id="blank"),
    pytest.param(b"TRT-8502-E\nx: 7fc00000\n", "Line 2 .* 'x' the scale nan", id="not-a-number"),
    pytest.param(b"TRT-8502-E\nx: bf800000\n", "Line 2 .* 'x' the scale -1.0", id="below-zero"),
])
def test_parse_cache_names_the_line_when_it_is_junk(data: bytes, says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        parse_cache(data)


def test_cache_algorithm_is_that_of_the_header() -> None:
    assert cache_algorithm(b"TRT-8502-MinMaxCalibration\r\nx: 0\n") == "MinMaxCalibration"
    assert cache_algorithm(format_cache({}, "10.3")) == "EntropyCalibration2"

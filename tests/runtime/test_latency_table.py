from __future__ import annotations

import dataclasses
import itertools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trtkit.device import Device
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime import recording
from trtkit.runtime.latency_kit import KitLayer, LatencyKit, write_kit
from trtkit.runtime.latency_table import LatencyTable, Point
from trtkit.runtime.probe import probe_device
from trtkit.runtime.recording import record_latencies
from trtkit.target import Target, get_target, load_targets

GRID = {Point("conv", i, o): 1e-6 * (i * o + 3 * i + o) for i in (16, 32, 64) for o in (16, 64)}
APART = {Point("depthwise", width, width): 1e-6 * width for width in (16, 48)}
TABLE = LatencyTable("pi5", Precision.INT8, 16, {**GRID, **APART}, 1.5, {"cpu": "some"})

WORK = """
<ir_version: 8, opset_import: ["" : 17]>
work (float[1,64,64] x) => (float[1,64,64] y) {{
{lines}
}}
"""


@pytest.mark.parametrize(("inputs", "outputs", "as_if"), [
    (32, 64, (32, 64)), (48, 32, (48, 32)), (33, 64, (48, 64)), (8, 16, (16, 16)), (64, 17, (64, 32))],
    ids=["measured", "between", "rounded up to the multiple", "below the narrowest", "outputs rounded up"])
def test_a_layer_is_interpolated_exactly_when_its_latency_is_bilinear(inputs: int, outputs: int,
                                                                     as_if: tuple[int, int]) -> None:
    i, o = as_if
    assert TABLE.layer_seconds(Point("conv", inputs, outputs)) == pytest.approx(1e-6 * (i * o + 3 * i + o))


def test_a_depthwise_layer_has_one_width() -> None:
    assert TABLE.layer_seconds(Point("depthwise", 30, 30)) == pytest.approx(32e-6)


def test_a_model_is_the_sum_of_its_layers_times_the_factor() -> None:
    points = [Point("conv", 16, 16), Point("depthwise", 16, 16)]
    assert TABLE.predict(points) == pytest.approx(1.5 * sum(map(TABLE.layer_seconds, points)))


def test_the_widest_layer_is_found_when_it_is_no_multiple() -> None:
    table = dataclasses.replace(TABLE, seconds={Point("head", 16, 10): 1.0, Point("head", 32, 10): 2.0})
    assert table.layer_seconds(Point("head", 20, 10)) == pytest.approx(2.0)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == TABLE


@pytest.mark.parametrize(("content", "words"), [
    ("{", "is no latency table"), ('{"format": 2}', "its format is 2, this trtkit reads 1"),
    ('{"format": 1}', "no 'layers'")], ids=["cut", "newer", "incomplete"])
def test_what_is_no_table_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(SpecError, match=words):
        LatencyTable.load(tmp_path / "t.json")


def test_a_missing_table_and_kit_say_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot be read: No such file.*trtkit latency record KIT"):
        LatencyTable.load(tmp_path / "t.json")
    with pytest.raises(SpecError, match=r"cannot be read: No such file.*trtkit latency kit"):
        LatencyKit.load(tmp_path / "k.kit")


def test_what_is_no_kit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.kit").write_bytes(b"PK nothing")
    with pytest.raises(SpecError, match="is no latency kit"):
        LatencyKit.load(tmp_path / "k.kit")
    with zipfile.ZipFile(tmp_path / "k.kit", "w") as archive:
        archive.writestr("index.json", json.dumps({"format": 9}))
    with pytest.raises(SpecError, match="its format is 9, this trtkit reads 1"):
        LatencyKit.load(tmp_path / "k.kit")


@pytest.fixture
def make_kit(tmp_path: Path, onnx_text: Callable[[str], bytes]) -> Callable[[Target], LatencyKit]:
    """Return a function that writes a kit of two layers: one matrix product, and four."""

    def products(count: int) -> bytes:
        names = ["x", *(f"t{each}" for each in range(count)), "y"]
        lines = [f"    {after} = {'MatMul(' + before + ', x)' if after != 'y' else 'Relu(' + before + ')'}"
                 for before, after in itertools.pairwise(names)]
        return onnx_text(WORK.format(lines="\n".join(lines)))

    def make(target: Target) -> LatencyKit:
        few, many = Point("product", 16, 16), Point("product", 64, 64)
        layers = [KitLayer(few, "few", "base"), KitLayer(many, "many", "base")]
        models = [("base", products(0), None), ("few", products(2), None), ("many", products(12), b"TRT-cache"),
                  ("model", products(14), None)]
        return write_kit(tmp_path / "work.kit", target, Precision.FP32, layers=layers, whole=[few, many], models=models)

    return make


@pytest.fixture
def here() -> Target:
    device = probe_device()
    return next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))


def test_recording_measures_layers_and_the_factor_of_the_whole(make_kit: Callable[[Target], LatencyKit], here: Target
                                                               ) -> None:
    kit = make_kit(here)
    told: list[int] = []
    table = record_latencies(kit, threads=1, seconds=0.02, progress=lambda what, done, total: told.append(done))
    few, many = (table.layer_seconds(point) for point in kit.whole)
    assert 0.0 <= few < many
    assert table.predict(kit.whole) == pytest.approx(table.conditions["model_seconds"])
    assert table.conditions["threads"] == 1
    assert told == [0, 1, 2]


def test_recording_goes_on_where_it_was_stopped(make_kit: Callable[[Target], LatencyKit], here: Target,
                                                tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit, part = make_kit(here), tmp_path / "t.json.part"

    def stop(what: str, done: int, total: int | None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_latencies(kit, threads=1, seconds=0.001, checkpoint=part, progress=stop)
    (kept,) = json.loads(part.read_text())["seconds"].items()
    measured: list[str] = []
    original = recording._Bench.difference
    monkeypatch.setattr(recording._Bench, "difference",
                        lambda self, name, base: measured.append(name) or original(self, name, base))
    table = record_latencies(kit, threads=1, seconds=0.001, checkpoint=part)
    assert (measured, kept[0]) == (["many"], "few")
    assert table.seconds[kit.whole[0]] == kept[1]


def test_a_checkpoint_of_another_kit_is_refused(make_kit: Callable[[Target], LatencyKit], here: Target,
                                                tmp_path: Path) -> None:
    part = tmp_path / "t.json.part"
    part.write_text(json.dumps({"origin": {"kit": "other"}, "seconds": {}}))
    with pytest.raises(SpecError, match=r"of another kit, machine or runtime.*Remove it to begin anew"):
        record_latencies(make_kit(here), checkpoint=part)
    part.write_text("{")
    with pytest.raises(SpecError, match=r"cannot be read as a recording.*Remove it to begin anew"):
        record_latencies(make_kit(here), checkpoint=part)


def test_a_kit_for_another_cpu_is_refused(make_kit: Callable[[Target], LatencyKit], pc: Device) -> None:
    elsewhere = dataclasses.replace(get_target("pi5"), name="riscv", arch="riscv64")
    with pytest.raises(SpecError, match=r"is for target 'riscv' .*this machine is .*Record it there"):
        record_latencies(make_kit(elsewhere))


def test_a_kit_for_tensorrt_asks_the_builder_for_its_plans(make_kit: Callable[[Target], LatencyKit]) -> None:
    kit = make_kit(get_target("jetson-xavier-jp5"))
    with pytest.raises(SpecError, match=r"whose plans are built here first.*trtkit\.opening\.build_here"):
        record_latencies(kit)
    asked: list[object] = []

    def builder(request: object) -> tuple[bytes, object]:
        asked.append(request)
        raise SpecError("enough")

    with pytest.raises(SpecError, match="enough"):
        record_latencies(kit, builder=builder)  # type: ignore[arg-type]
    assert (asked[0].target.name, asked[0].model) == ("jetson-xavier-jp5", kit.read()[0])  # type: ignore[attr-defined]
    assert kit.read("many")[1] == b"TRT-cache"

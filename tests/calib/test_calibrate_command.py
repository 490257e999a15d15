from pathlib import Path

import onnx
from typer.testing import CliRunner

from trtkit.cli.app import app
from trtkit.ranges import CalibrationTable


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_writes_the_table_and_prints_the_audit(model: onnx.ModelProto, images: Path, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "p.toml").write_text('[preprocess]\nsize = [12, 12]\nresize = "stretch"\n')
    output = tmp_path / "m.calib"
    text = run(tmp_path / "m.onnx", "--data", images, "-o", output, "-p", tmp_path / "p.toml", "--limit", 6)
    table = CalibrationTable.load(output)
    assert table.samples == 6
    assert "6 samples, 7 tensors" in text.replace("\n", "")
    assert "only 6 samples" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "m.calib", "m.onnx", "p.toml"]


def test_command_goes_on_from_the_part_unless_told_not_to(model: onnx.ModelProto, images: Path,
                                                          tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "p.toml").write_text("size = [12, 12]\n")
    part = tmp_path / "m.calib.part"
    part.write_bytes(b"foreign")
    arguments = ["calibrate", str(tmp_path / "m.onnx"), "--data", str(images), "-o", str(tmp_path / "m.calib"),
                 "--preprocess", str(tmp_path / "p.toml")]
    result = CliRunner().invoke(app, arguments)
    assert "no calibration checkpoint" in str(result.exception)
    assert CliRunner().invoke(app, [*arguments, "--no-resume"]).exit_code == 0


def test_command_turns_a_cache_into_a_table(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "c").write_bytes(b"TRT-8502-EntropyCalibration2\n" + model.graph.input[0].name.encode()
                                 + b": 3f800000\n")
    text = run(tmp_path / "m.onnx", "--from-cache", tmp_path / "c", "-o", tmp_path / "t")
    table = CalibrationTable.load(tmp_path / "t")
    assert table.tensors[model.graph.input[0].name].amax == 127.0
    assert f"ranges of {len(table.tensors)} tensors" in text.replace("\n", "")
    assert "are not in the cache" in text


def test_command_refuses_both_data_and_a_cache_and_neither(tmp_path: Path) -> None:
    for flags in ((), ("--data", "d", "--from-cache", "c")):
        result = CliRunner().invoke(app, ["calibrate", "m.onnx", "-o", str(tmp_path / "t"), *flags])
        assert "either --data or --from-cache" in str(result.exception)

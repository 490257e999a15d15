"""A board records a latency kit without torch and onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from trtkit.precision import Precision
from trtkit.runtime.latency_kit import KitLayer, write_kit
from trtkit.runtime.latency_table import Point
from trtkit.runtime.probe import probe_device
from trtkit.target import load_targets

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
work (float[1,64,64] x) => (float[1,64,64] y) {{ {body} }}
"""

WITHOUT_TORCH_AND_ONNX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'onnx', 'onnx_graphsurgeon', 'google'):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from trtkit.cli import main
main()
"""


def _bytes(body: str) -> bytes:
    from onnx import parser

    data: bytes = parser.parse_model(MODEL.format(body=body)).SerializeToString()
    return data


def test_a_kit_is_recorded_where_torch_and_onnx_are_absent(tmp_path: Path) -> None:
    device = probe_device()
    target = next(each for each in load_targets().values() if each.runs_on(device.machine, device.cpu_flags))
    base, layer = _bytes("y = Relu(x)"), _bytes("a = MatMul(x, x) b = MatMul(a, x) c = MatMul(b, x) y = Relu(c)")
    point = Point("product", 64, 64)
    write_kit(tmp_path / "work.kit", target, Precision.FP32, layers=[KitLayer(point, "layer", "base")], whole=[point],
              models=[("base", base, None), ("layer", layer, None), ("model", layer, None)])
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_TORCH_AND_ONNX, "latency", "record", "work.kit",
                           "-o", "table.json", "--threads", "1", "--seconds", "0.01"], cwd=tmp_path, check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "table.json").read_text())["layers"][0]["kind"] == "product"

from __future__ import annotations

import json
from collections.abc import Callable

from trtkit.target import load_targets

Trtkit = Callable[..., str]


def test_doctor_prints_what_works_and_the_command_for_the_rest(trtkit: Trtkit) -> None:
    printed = trtkit("doctor")
    for what in ("CPU targets", "ONNX Runtime", "Build plans", "Run on the GPU"):
        assert what in printed


def test_doctor_prints_json(trtkit: Trtkit) -> None:
    content = json.loads(trtkit("doctor", "--json"))
    assert content["device"]["onnxruntime"]
    works = {finding["topic"]: finding["ok"] for finding in content["findings"]}
    assert works["Run on the CPU"] is True
    assert all(finding["remedy"] for finding in content["findings"] if finding["ok"] is False)


def test_doctor_lists_the_targets(trtkit: Trtkit) -> None:
    text = trtkit("doctor")
    assert all(name in text for name in load_targets())
    assert "Jetson Orin, JetPack 7.2" in text

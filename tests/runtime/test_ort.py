from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import BundleError, SpecError
from trtkit.runtime import OrtSession

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def test_session_loads_from_a_file(double_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(double_model)
    session = OrtSession(tmp_path / "m.onnx", threads=1, spinning=False)
    assert session.run({"x": np.ones((1, 3), np.float32)})["total"] == 6
    assert "1 threads" in session.backend


@pytest.mark.parametrize("cut", [0, 1, 30, -1], ids=["empty", "one", "some", "last"])
def test_session_refuses_a_truncated_model_with_the_words_of_onnxruntime(double_model: bytes, cut: int) -> None:
    with pytest.raises(BundleError, match="does not load in onnxruntime"):
        OrtSession(double_model[:cut])


def test_session_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no file"):
        OrtSession(tmp_path / "none.onnx")


def test_session_names_an_unknown_operator(onnx_text: Callable[[str], bytes]) -> None:
    model = onnx_text(HEAD + "g (float[1] x) => (float[1] y) { y = Frobnicate(x) }")
    with pytest.raises(BundleError, match="Frobnicate"):
        OrtSession(model)


def test_session_refuses_threads_below_one(double_model: bytes) -> None:
    with pytest.raises(SpecError, match="threads is 0"):
        OrtSession(double_model, threads=0)


def test_specs_name_dimensions_that_have_no_name(onnx_text: Callable[[str], bytes]) -> None:
    session = OrtSession(onnx_text(HEAD + "g (float16[?,n,4] x) => (float16[?,n,4] y) { y = Relu(x) }"))
    assert session.inputs[0].shape == ("x_0", "n", 4)
    assert session.inputs[0].dtype == "float16"
    assert session.run({"x": np.ones((2, 3, 4), np.float16)})["y"].shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", ["float", "double", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                                   "uint64", "bool"])
def test_every_dtype_passes_through(onnx_text: Callable[[str], bytes], dtype: str) -> None:
    session = OrtSession(onnx_text(HEAD + f"g ({dtype}[n] x) => ({dtype}[n] y) {{ y = Identity(x) }}"), threads=1)
    feed = np.array([0, 1, 1], session.inputs[0].dtype)
    (out,) = session.run({"x": feed}).values()
    np.testing.assert_array_equal(out, feed)
    assert not np.shares_memory(out, feed)
    into = np.zeros(3, feed.dtype)
    session.run_into({"x": feed}, {"y": into})
    np.testing.assert_array_equal(into, feed)


def test_session_refuses_text_inputs(onnx_text: Callable[[str], bytes]) -> None:
    with pytest.raises(SpecError, match=r"'x' is a tensor\(string\)"):
        OrtSession(onnx_text(HEAD + "g (string[n] x) => (string[n] y) { y = Identity(x) }"))


@pytest.mark.filterwarnings("ignore")
def test_run_keeps_the_words_of_an_operator_that_fails(onnx_text: Callable[[str], bytes]) -> None:
    model = onnx_text(HEAD + "g (float[n] x) => (float[a,b] y) "
                             "{ shape = Constant<value_ints: ints = [2, 3]>() y = Reshape(x, shape) }")
    session = OrtSession(model, threads=1)
    assert session.run({"x": np.ones(6, np.float32)})["y"].shape == (2, 3)
    with pytest.raises(SpecError, match=r"refused to run the model on x: float32\[5\].*Reshape"):
        session.run({"x": np.ones(5, np.float32)})
    with pytest.raises(SpecError, match="refused to run"):
        session.run_into({"x": np.ones(5, np.float32)}, {"y": np.zeros((2, 3), np.float32)})


def test_session_computes_as_written_when_the_metadata_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from trtkit.runtime.ort import AS_WRITTEN

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[2] x) => (float[2] y) { a = Identity(x)  y = Neg(a) }""")
    levels = []
    load = OrtSession._load
    monkeypatch.setattr(OrtSession, "_load", lambda self, *rest: levels.append(rest[-1]) or load(self, *rest))
    OrtSession(model.SerializeToString())
    model.metadata_props.add(key=AS_WRITTEN, value="1")
    OrtSession(model.SerializeToString())
    OrtSession(model.SerializeToString(), optimize=True)
    assert levels == [True, True, False, True]

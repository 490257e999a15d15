"""Each operator from ONNX text, against ONNX Runtime; and that the gradient reaches float inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from trtkit.compress.qat.operators import OPERATORS
from trtkit.compress.qat.torch_graph import TorchGraph
from trtkit.errors import GraphError
from trtkit.graph.run import run_model

_WEIGHTS = {
    "w1": (6, 4, 3), "w2": (6, 4, 3, 3), "wg": (8, 1, 3, 2), "wt": (4, 3, 3, 3), "wtg": (4, 2, 2, 2), "b3": (3,),
    "b6": (6,), "b8": (8,), "c4": (4,), "d4": (4,), "m": (5, 7), "mt": (7, 5), "b7": (7,), "w5": (5,), "v5": (5,),
    "slope": (4, 1, 1), "grid": (2, 3, 3, 2),
}
_POSITIVE = {"variance": (4,)}


def _case(node: str, shape: str = "2,4,8,9", opset: int = 17, **constants: Any) -> Any:
    return pytest.param(node, shape, opset, constants, id=f"{node}@{opset}"[:90])


_CASES = [
    _case("Conv (x, w1, b6)", "2,4,9"),
    _case("Conv <dilations=[2], pads=[3,1]> (x, w1)", "2,4,9"),
    _case("Conv <strides=[2,1], pads=[1,1,1,1]> (x, w2, b6)"),
    _case("Conv <pads=[0,1,2,1], dilations=[1,2]> (x, w2)"),
    _case('Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w2, b6)'),
    _case('Conv <auto_pad="SAME_LOWER", strides=[2,2]> (x, w2)'),
    _case('Conv <auto_pad="VALID"> (x, w2)'),
    _case("Conv <group=4> (x, wg, b8)"),
    _case("ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (x, wt, b3)"),
    _case("ConvTranspose <strides=[2,3], pads=[0,1,1,0]> (x, wt)"),
    _case("ConvTranspose <group=2, strides=[2,2]> (x, wtg)"),
    _case('ConvTranspose <auto_pad="SAME_UPPER", strides=[2,2]> (x, wt)'),
    _case('ConvTranspose <auto_pad="SAME_LOWER", strides=[2,2]> (x, wt)'),
    _case("ConvTranspose <strides=[2,2], output_shape=[16,18]> (x, wt)"),
    _case("Gemm (x, m, b7)", "3,5"),
    _case("Gemm <transB=1> (x, mt, b7)", "3,5"),
    _case("Gemm <transA=1, alpha=0.5, beta=2.0> (x, m, b7)", "5,3"),
    _case("Gemm <alpha=0.5> (x, m)", "3,5"),
    _case("MatMul (x, m)", "2,4,3,5"),
    _case('Einsum <equation="bij,jk->bik"> (x, m)', "2,3,5"),
    *(_case(f"{name} (x, c)", c=(4, 1, 1)) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    _case("Max (x, c, d)", c=(4, 1, 1), d=(9,)),
    _case("Div (s, two)", two=np.int64(3), s=np.array([-7, 7], np.int64)),
    _case("Pow (x, e)", e=np.float32(2)),
    _case("Pow (x, e)", e=np.array([[1], [2], [3], [2], [1], [0], [2], [3]], np.float32)),
    *(_case(f"{name} (x)") for name in ("Exp", "Neg", "Abs", "Relu", "Sigmoid", "Tanh", "Erf", "Sin", "Cos", "Softplus",
                                        "Softsign", "Floor", "Ceil", "Round", "Sign", "HardSwish", "HardSigmoid",
                                        "LeakyRelu", "Elu", "Selu", "Celu", "Identity", "Softmax", "LogSoftmax",
                                        "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Transpose", "Reciprocal",
                                        "Dropout", "ThresholdedRelu", "Atan")),
    *(_case(f"{name} (p)") for name in ("Sqrt", "Log")),
    _case("Clip (x, low, high)", low=np.float32(-0.5), high=np.float32(0.5)),
    _case("Clip (x, , high)", high=np.float32(0.5)),
    _case("LeakyRelu <alpha=0.3> (x)"), _case("Elu <alpha=0.3> (x)"),
    _case("HardSigmoid <alpha=0.16666667, beta=0.5> (x)"), _case("PRelu (x, slope)"),
    _case("Gelu (x)", opset=20), _case('Gelu <approximate="tanh"> (x)', opset=20), _case("Mish (x)", opset=18),
    _case("Softmax (x)", opset=11), _case("Softmax <axis=2> (x)", opset=11), _case("Softmax <axis=1> (x)"),
    _case("LogSoftmax <axis=1> (x)", opset=12),
    _case("LayerNormalization (x, w5, v5)", "2,4,5"), _case("LayerNormalization <epsilon=0.1> (x, w5)", "2,4,5"),
    _case("LayerNormalization <axis=1> (x, w)", "2,4,5", w=(4, 5)),
    _case("InstanceNormalization (x, c4, d4)"),
    _case("GroupNormalization <num_groups=2> (x, c4, d4)", opset=21),
    _case("BatchNormalization (x, c4, d4, d4, variance)"),
    _case("LpNormalization <axis=1> (x)"), _case("LRN <size=3> (x)"),
    _case("AveragePool <kernel_shape=[3,2], strides=[2,1]> (x)"),
    _case("AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (x)"),
    _case("AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (x)"),
    _case("AveragePool <kernel_shape=[3,3], pads=[0,1,1,0], strides=[2,2]> (x)"),
    _case("AveragePool <kernel_shape=[3,3], pads=[0,1,1,0], count_include_pad=1> (x)"),
    _case("AveragePool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)", "2,4,8,10", opset=19),
    _case("AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], ceil_mode=1> (x)", opset=19),
    _case('AveragePool <kernel_shape=[3,3], auto_pad="SAME_UPPER", strides=[2,2]> (x)'),
    _case("AveragePool <kernel_shape=[3]> (x)", "2,4,9"),
    _case("MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x)"),
    _case("MaxPool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1> (x)"),
    _case("MaxPool <kernel_shape=[2,2], pads=[1,1,1,1], strides=[2,2], ceil_mode=1> (x)"),
    _case("MaxPool <kernel_shape=[2,2], pads=[0,0,1,1], dilations=[2,2]> (x)"),
    _case('MaxPool <kernel_shape=[3,3], auto_pad="SAME_LOWER", strides=[2,2]> (x)'),
    *(_case(f"{name} <axes=[1,-1]> (x)") for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                                                      "ReduceSumSquare", "ReduceProd", "ReduceLogSumExp")),
    *(_case(f"{name} <keepdims=0> (x, axes)", opset=18, axes=np.array([1, 2]))
      for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceProd")),
    _case("ReduceMean (x)"), _case("ReduceSum <noop_with_empty_axes=1> (x)"), _case("ReduceLogSum <axes=[1]> (p)"),
    _case("ArgMax <axis=1, keepdims=0> (x)"), _case("ArgMin <axis=-1> (x)"),
    _case("ArgMax <axis=1, select_last_index=1> (r)"),
    _case("CumSum (x, axis)", axis=np.int64(1)),
    _case("CumSum <exclusive=1, reverse=1> (x, axis)", axis=np.int64(-1)),
    _case("Flatten <axis=2> (x)"), _case("Flatten <axis=0> (x)"), _case("Flatten <axis=-1> (x)"),
    _case("Transpose <perm=[0,2,3,1]> (x)"),
    _case("Reshape (x, to)", to=np.array([0, -1, 9])),
    _case("Reshape <allowzero=1> (z, to)", z=np.zeros((0, 3), np.float32), to=np.array([3, 0])),
    _case("Squeeze (x, axes)", "2,1,3,1", axes=np.array([1, -1])), _case("Squeeze (x)", "2,1,3,1"),
    _case("Squeeze <axes=[1]> (x)", "2,1,3,1", opset=12), _case("Unsqueeze <axes=[0,3]> (x)", "2,3", opset=12),
    _case("Unsqueeze (x, axes)", "2,3", axes=np.array([-1, 0])),
    _case("Concat <axis=1> (x, c, x)", c=(2, 3, 8, 9)),
    _case("Slice (x, s, e)", s=np.array([0, 1]), e=np.array([1, 100])),
    _case("Slice (x, s, e, a, t)", s=np.array([1, -1]), e=np.array([7, -100]), a=np.array([2, -1]),
          t=np.array([2, -2])),
    _case("Slice (x, s, e, a, t)", s=np.array([-100, 5]), e=np.array([100, 2]), a=np.array([3, 2]),
          t=np.array([3, 1])),
    _case("Gather <axis=1> (x, i)", i=np.array([[0, -1], [2, 1]])), _case("Gather <axis=-1> (x, i)", i=np.int64(-2)),
    _case("Gather (i, k)", i=np.array([3, 4, 5]), k=np.int64(1)),
    _case("GatherElements <axis=2> (x, i)", i=np.array([[[[0, 1], [-1, 2]]]])),
    _case("GatherND (x, i)", i=np.array([[0, 1], [-1, 2]])),
    _case("ScatterND (x, i, u)", i=np.array([[0, 1], [1, 2]]), u=(2, 8, 9)),
    _case("ScatterElements <axis=1> (x, i, u)", "2,3", i=np.array([[0, -1]]), u=(1, 2)),
    _case("OneHot <axis=1> (i, depth, values)", i=np.array([[0, 2], [-1, 1]]), depth=np.int64(3),
          values=np.array([0.5, 2], np.float32)),
    _case("NonZero (r)"), _case("GridSample <align_corners=1> (x, grid)"),
    _case("Expand (x, to)", "2,1,3", to=np.array([4, 1])), _case("Tile (x, n)", "2,3", n=np.array([2, 3])),
    _case("Pad (x, n)", n=np.array([0, 0, 1, 2, 0, 0, 3, -1])),
    _case("Pad (x, n, v)", n=np.array([0, 1, 0, 0, 0, 0, 0, 0]), v=np.float32(7)),
    _case('Pad <mode="reflect"> (x, n)', n=np.array([0, 0, 1, 2, 0, 0, 3, 4])),
    _case('Pad <mode="edge"> (x, n)', n=np.array([0, 2, 1, 0, 0, 0, 0, 4])),
    _case("Pad (x, n, , a)", opset=18, n=np.array([1, 2]), a=np.array([-1])),
    _case('Pad <mode="wrap"> (x, n)', opset=19, n=np.array([0, 0, 1, 2, 0, 0, 3, 4])),
    _case("DepthToSpace <blocksize=2> (x)"), _case('DepthToSpace <blocksize=2, mode="CRD"> (x)'),
    _case("SpaceToDepth <blocksize=2> (x)", "2,3,4,6"),
    _case("Cast <to=7> (x)"), _case("Cast <to=9> (x)"), _case("Cast <to=11> (x)"),
    _case("Where (k, x, c)", k=np.array([True, False, True, True])[:, None, None], c=(4, 1, 1)),
    *(_case(f"{name} (x, c)", c=(4, 1, 1)) for name in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *(_case(f"{name} (k, l)", k=np.array([True, False]), l=np.array([[True], [False]]))
      for name in ("And", "Or", "Xor")),
    _case("Not (k)", k=np.array([True, False])), _case("IsNaN (x)"), _case("IsInf (x)"),
    _case("Mod <fmod=1> (x, c)", c=(4, 1, 1)), _case("Mod (s, two)", two=np.int64(3), s=np.array([-7, 7], np.int64)),
    _case("Shape (x)"), _case("Shape <start=1, end=-1> (x)"), _case("Size (x)"),
    _case("Constant <value_floats=[1.0, 2.5]> ()"), _case("ConstantOfShape (n)", n=np.array([2, 3])),
    _case("Range (a, b, c)", a=np.int64(10), b=np.int64(2), c=np.int64(-3)),
    _case("Trilu (x)"), _case("Trilu <upper=0> (x, k)", k=np.int64(1)),
    *(_case(f'Resize <mode="{mode}", coordinate_transformation_mode="{style}"> (x, , scales)', "1,2,5,6",
            scales=np.array([1, 1, 2, 1.7], np.float32))
      for mode in ("linear", "cubic") for style in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")),
    _case('Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (x, , scales)',
          scales=np.array([1, 1, 2, 2], np.float32)),
    _case('Resize <mode="nearest"> (x, , scales)', scales=np.array([1, 1, 0.6, 1.3], np.float32)),
    _case('Resize <mode="cubic", exclude_outside=1> (x, , , sizes)', "1,2,5,6", sizes=np.array([1, 2, 9, 4])),
    _case('Resize <mode="linear"> (x, , , sizes)', sizes=np.array([2, 4, 4, 5])),
]


def _model(node: str, shape: str, opset: int, constants: dict[str, Any]) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
                                    f"g (float[{shape}] x) => (float y) {{ y = {node} }}")
    model.graph.output[0].ClearField("type")  # ONNX Runtime infers it
    operands = list(model.graph.node[0].input)
    values = {**{name: _WEIGHTS.get(name, _POSITIVE.get(name)) for name in operands}, **constants,
              "r": np.array([[[1.0, 0, 1], [0, 2, 2]]], np.float32), "p": (2, 3, 4)}
    for name in dict.fromkeys(operands):
        value = values.get(name)
        if name in ("", "x") or value is None:
            continue
        if isinstance(value, tuple):
            value = generator.standard_normal(value).astype(np.float32)
            value = np.abs(value) + 0.1 if name in ("p", *_POSITIVE) else value
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize(("node", "shape", "opset", "constants"), _CASES)
def test_operator_gives_the_numbers_of_onnx_runtime(node, shape, opset, constants):
    model = _model(node, shape, opset, constants)
    x = np.random.default_rng(1).standard_normal([int(dim) for dim in shape.split(",")]).astype(np.float32)
    expected = run_model(model, {"x": x}, optimize=False)["y"]
    source = torch.from_numpy(x).requires_grad_()
    actual = TorchGraph(model)(source)
    assert actual.detach().numpy().dtype == expected.dtype
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("text", [
    "(float[2,7] x) => (float[2,3] y, float[2,4] z) { y, z = Split <axis=1> (x, sizes) }",
    "(float[2,6] x) => (float[2,3] y, float[2,3] z) { y, z = Split <axis=1> (x) }",
], ids=["sizes", "equal"])
def test_split_gives_each_part_as_an_output(text):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\ng {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 4]), "sizes"))
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    results = TorchGraph(model)(torch.from_numpy(x))
    assert list(results) == ["y", "z"]
    np.testing.assert_array_equal(results["y"], x[:, :3])
    np.testing.assert_array_equal(results["z"], x[:, 3:])


def test_topk_gives_values_and_indices_of_onnx_runtime():
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\ng (float[3,8] x) => (float[3,2] v, '
                                    "int64[3,2] i) { v, i = TopK <axis=1, largest=0> (x, k) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "k"))
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    expected, actual = run_model(model, {"x": x}), TorchGraph(model)(torch.from_numpy(x))
    np.testing.assert_array_equal(actual["v"], expected["v"])
    np.testing.assert_array_equal(actual["i"], expected["i"])


@pytest.mark.parametrize(("node", "reason"), [
    ("m, i = MaxPool <kernel_shape=[2,2]> (x) y = Cast <to=1> (i)", "further outputs"),
    ("y = AveragePool <kernel_shape=[2,2], dilations=[2,2]> (x)", "dilations"),
    ('y = Resize <mode="linear", antialias=1> (x, , scales)', "antialias"),
    ("y = Det (x)", "no form"),
], ids=["max indices", "dilated average", "antialias", "unknown"])
def test_operator_is_refused_by_name_when_torch_has_no_form(node, reason):
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 19]>\ng (float[1,2,8,8] x) => (float y)\n'
                                    f"<float[4] scales = {{1, 1, 2, 2}}> {{ {node} }}")
    model.graph.node[0].name = "culprit"
    with pytest.raises(GraphError, match=rf"culprit.*{reason}.*trtkit rewrite"):
        TorchGraph(model)


def test_table_of_operators_names_only_operators_of_onnx():
    assert all(onnx.defs.has(name) for name in OPERATORS)

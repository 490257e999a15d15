import numpy as np
import pytest
import torch

from trtkit.compress.qat.fake_quantize import BiasQuantizer, FollowingQuantizer, Quantizer
from trtkit.quant.floats.mixed import half_scale


def test_values_are_those_of_onnx_quantize_and_dequantize() -> None:
    values = np.random.default_rng(0).normal(size=(64, 7)).astype(np.float32)
    scale, zero_point = np.float32(0.013), 100
    expected = (np.clip(np.rint(values / scale) + zero_point, 0, 255) - zero_point).astype(np.float32) * scale
    quantizer = Quantizer(scale, -zero_point, 255 - zero_point)
    np.testing.assert_array_equal(quantizer(torch.from_numpy(values)).detach().numpy(), expected)


def test_gradients_are_those_of_lsq() -> None:
    values = torch.tensor([0.2, 0.9, 7.0, -9.0], requires_grad=True)
    quantizer = Quantizer(np.float32(0.5), -4, 3)
    quantizer(values).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    wanted = 1 * (0 - 0.4) + 2 * (2 - 1.8) + 3 * 3 + 4 * -4  # by s; by its logarithm times s
    assert quantizer.log_ratio.grad is not None
    assert quantizer.log_ratio.grad.item() == pytest.approx(0.5 * wanted / np.sqrt(4 * 3), rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1], ids=["Conv", "ConvTranspose"])
def test_each_channel_has_the_gradient_that_it_would_have_alone(axis: int) -> None:
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    together = Quantizer(scale, -127, 127, axis=axis)
    together(weight).square().sum().backward()
    assert together.log_ratio.grad is not None
    for channel in range(4):
        alone = Quantizer(scale[channel], -127, 127)
        alone(weight.select(axis, channel)).square().sum().backward()
        assert alone.log_ratio.grad is not None
        assert together.log_ratio.grad[channel].item() == pytest.approx(alone.log_ratio.grad.item(), rel=1e-4)


def test_scale_begins_to_the_bit_where_ptq_ends_and_stays_positive() -> None:
    start = np.array([0.1, 1e-3], np.float32)
    quantizer = Quantizer(start, -127, 127, axis=0)
    np.testing.assert_array_equal(quantizer.scale.detach().numpy(), start)
    with torch.no_grad():
        quantizer.log_ratio -= 20
    assert (quantizer.scale > 0).all()


def test_fixed_scale_has_no_gradient_and_passes_that_of_the_values() -> None:
    values = torch.tensor([0.1], requires_grad=True)
    quantizer = Quantizer(np.float32(0.5), -127, 127, learned=False)
    quantizer(values).backward()
    assert quantizer.log_ratio.grad is None
    assert values.grad is not None
    assert values.grad.item() == 1


def test_scale_does_not_pass_its_bound() -> None:
    quantizer = Quantizer(np.float32(0.5), 0, 255, largest=0.75)
    with torch.no_grad():
        quantizer.log_ratio += 3
    assert quantizer.scale.item() == 0.75


def test_half_scales_are_the_numbers_that_the_lowering_stores() -> None:
    scale = np.array([3e-7, 5e-5, 0.0123, 3.3], np.float32)
    quantizer = Quantizer(scale, -127, 127, axis=0, half=True)
    np.testing.assert_array_equal(quantizer.scale.detach().numpy(), half_scale(scale))


def test_following_scale_covers_the_weight_and_stays_finite_where_it_is_zero() -> None:
    weight = torch.tensor([[1.27, -0.5], [0.0, 0.0]])
    quantizer = FollowingQuantizer(127, 0)
    np.testing.assert_allclose(quantizer.scale_of(weight), [0.01, 1.0], rtol=1e-6)
    np.testing.assert_allclose(quantizer(weight), weight, atol=1e-6)


def test_bias_lies_on_the_steps_of_the_accumulator_and_learns() -> None:
    weight, source = Quantizer(np.array([0.5, 0.25], np.float32), -127, 127, axis=0), Quantizer(np.float32(0.5), 0, 255)
    bias = torch.tensor([0.3, 0.3], requires_grad=True)
    rounded = BiasQuantizer(weight, source)(bias)
    assert rounded.tolist() == [0.25, 0.25]
    rounded.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [1, 1]
    assert weight.log_ratio.grad is None

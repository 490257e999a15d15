from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trtkit.compress.distillation.scaling import scale_config, scaled, select_weights
from trtkit.errors import SpecError

transformers = pytest.importorskip("transformers")

SMALL = {
    "ViT": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
            "image_size": 32, "patch_size": 8},
    "Swin": {"embed_dim": 16, "depths": [2, 4], "num_heads": [2, 4], "image_size": 32, "window_size": 2},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 4], "layer_type": "basic"},
    "ConvNext": {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 4, 2]},
    "MobileNetV2": {},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 1.0, "hidden_dim": 640},
    "RegNet": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 2, 1], "groups_width": 16},
    "Segformer": {"hidden_sizes": [16, 32, 80, 128], "num_attention_heads": [1, 2, 5, 8], "depths": [2, 2, 2, 2]},
}


def _model(family: str, config: Any = None) -> nn.Module:
    config = config or getattr(transformers, f"{family}Config")(num_labels=3, **SMALL[family])
    return getattr(transformers, f"{family}ForImageClassification")(config).eval()


def _parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("width", "depth"), [(0.5, 1.0), (0.7, 0.5)], ids=["narrow", "both"])
def test_a_scaled_model_runs_and_is_smaller(family: str, width: float, depth: float) -> None:
    teacher = _model(family)
    student = scaled(teacher, width=width, depth=depth).eval()
    assert type(student) is type(teacher)
    assert _parameters(student) < (0.5 if width == 0.5 else 0.8) * _parameters(teacher)
    with torch.no_grad():
        assert student(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_the_given_configuration_stays_and_labels_are_kept() -> None:
    config = transformers.ViTConfig(**SMALL["ViT"], id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    student = scale_config(config, width=0.5, depth=0.5)
    assert (config.hidden_size, config.num_hidden_layers) == (32, 4)
    assert (student.hidden_size, student.num_hidden_layers, student.intermediate_size) == (16, 2, 32)
    assert (student.num_attention_heads, student.image_size, student.id2label) == (2, 32, {0: "cat", 1: "dog"})


@pytest.mark.parametrize(("width", "multiple"), [(0.5, 8), (0.3, 8), (0.37, 32), (1.5, 16)])
def test_channels_are_multiples_and_heads_divide_them(width: float, multiple: int) -> None:
    config = transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    student = scale_config(config, width=width, channel_multiple=multiple)
    assert student.hidden_size % multiple == student.intermediate_size % multiple == 0
    assert student.hidden_size % student.num_attention_heads == 0
    assert abs(student.hidden_size - 192 * width) <= multiple / 2
    assert 40 <= student.hidden_size / student.num_attention_heads <= 96  # 64 before


def test_stages_keep_a_layer_and_derived_sizes_follow() -> None:
    config = transformers.SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
    student = scale_config(config, width=0.4, depth=0.1)
    assert (student.embed_dim, student.depths, student.hidden_size) == (40, [1, 1, 1, 1], 320)
    assert [(40 << stage) % heads for stage, heads in enumerate(student.num_heads)] == [0] * 4


def test_a_mapping_gives_a_dict() -> None:
    assert scale_config({"hidden_sizes": (64, 128), "depths": (3, 3), "act": "relu"}, width=0.5, depth=0.5) == {
        "hidden_sizes": [32, 64], "depths": [2, 2], "act": "relu"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: scale_config({"channels": 8}, width=0.5), "dict has no size that is known"),
    (lambda: scale_config({"hidden_size": 8}, width=0.0), "width is 0.0"),
    (lambda: scaled(nn.Linear(2, 2), width=0.5), "Linear has no `config`"),
    (lambda: select_weights(nn.Linear(4, 4), nn.Linear(2, 2)), "No weight of Linear fits into one of Linear"),
], ids=["unknown", "zero", "no-config", "no-weight"])
def test_what_cannot_be_scaled_is_told(call: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        call()


def test_the_same_channels_are_selected_in_every_layer() -> None:
    """A teacher that uses only its even channels says the same as the student that is made of them."""
    torch.manual_seed(0)

    def net(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))

    teacher, student = net(8).eval(), net(4).eval()
    with torch.no_grad():
        teacher[1].running_mean.uniform_(-1, 1)
        teacher[3].weight[:, 1::2] = 0
        teacher[6].weight[:, 1::2] = 0
    taken = select_weights(student, teacher)
    assert set(taken) == set(student.state_dict())
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(student(image), teacher(image))


def test_a_shallower_student_takes_the_first_layers() -> None:
    torch.manual_seed(0)
    teacher = _model("ViT")
    student = scaled(teacher, depth=0.5)
    taken = select_weights(student, teacher)
    assert set(taken) == set(student.state_dict())
    mine, theirs = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in taken)

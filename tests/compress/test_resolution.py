from __future__ import annotations

import pytest
import torch
from torch import nn

from trtkit.compress.resolution import at_size, evaluate_sizes, preprocess_at
from trtkit.compress.size import count
from trtkit.errors import SpecError
from trtkit.export import Exporter, ExportOptions, export_onnx
from trtkit.preprocess import Preprocess


def _pooling() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def _flattening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))


def _vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                    image_size=16, patch_size=4, num_labels=3)
    return transformers.ViTForImageClassification(config).eval()


TRACED = ExportOptions(exporters=(Exporter.TORCHSCRIPT,))
EXAMPLE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_rows_hold_score_cost_and_preprocessing_of_each_size() -> None:
    module, asked = _pooling(), []

    def evaluate_at(candidate: nn.Module, size: tuple[int, int]) -> float:
        asked.append((candidate is module, candidate.training, size))
        return size[0] / 100

    rows = evaluate_sizes(module, (16, 8, (8, 12)), evaluate_at, example=EXAMPLE,
                          preprocess=Preprocess((16, 16), mean=(0.5, 0.4, 0.3)))
    assert asked == [(True, False, (16, 16)), (True, False, (8, 8)), (True, False, (8, 12))]
    assert [row.score for row in rows] == [0.16, 0.08, 0.08]
    assert [row.preprocess.size for row in rows] == [(16, 16), (8, 8), (8, 12)]
    assert all(row.preprocess.mean == (0.5, 0.4, 0.3) for row in rows)
    head = 4 * 2
    assert [row.macs - head for row in rows] == [27 * 4 * pixels // 4 for pixels in (256, 64, 96)]
    assert module.training


def test_finetuning_trains_a_copy_for_each_size() -> None:
    module = _pooling()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def finetune_at(candidate: nn.Module, size: tuple[int, int]) -> None:
        assert candidate.training
        with torch.no_grad():
            candidate[4].bias.fill_(size[0])

    rows = evaluate_sizes(module, (16, 8), lambda m, size: float(m[4].bias[0].detach()), example=EXAMPLE,
                          finetune_at=finetune_at)
    assert [row.score for row in rows] == [16, 8]
    assert rows[0].module is not rows[1].module
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert rows[0].preprocess is None


def test_each_row_exports_at_its_size() -> None:
    row, = evaluate_sizes(_pooling(), (8,), lambda m, size: 0.0, example=EXAMPLE)
    exported = export_onnx(row.module, row.example, TRACED)
    assert exported.inputs[0].shape[1:] == (3, 8, 8)
    assert exported.parity.matches


@pytest.mark.parametrize("size", [8, 24, (8, 16)], ids=str)
def test_position_embeddings_are_interpolated_once_as_the_model_does_itself(size: int | tuple[int, int]) -> None:
    vit = _vit()
    height, width = (size, size) if isinstance(size, int) else size
    example = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    resized = at_size(vit, example)
    with torch.no_grad():
        expected = vit(example, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(resized(example).logits, expected)
    assert vit.vit.embeddings.position_embeddings.shape[1] == 17
    assert resized.vit.embeddings.position_embeddings.shape[1] == 1 + height * width // 16
    assert at_size(vit, EXAMPLE) is vit


def test_resized_position_embeddings_export() -> None:
    example = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    resized = at_size(_vit(), example)
    exported = export_onnx(resized, example, TRACED)  # checks the numbers against torch
    assert exported.inputs[0].shape[1:] == (3, 8, 8)
    assert count(resized, example).macs < count(_vit(), EXAMPLE).macs


def test_a_module_of_one_size_is_refused_before_any_training() -> None:
    trained: list[tuple[int, int]] = []
    with pytest.raises(SpecError, match=r"Sequential does not take an input of 8x8 pixels: .*shapes cannot be mult"):
        evaluate_sizes(_flattening(), (16, 8), lambda m, size: 0.0, example=EXAMPLE,
                       finetune_at=lambda m, size: trained.append(size))
    assert trained == []


@pytest.mark.parametrize(("sizes", "example", "message"), [
    ((), EXAMPLE, "No input size"),
    ((0,), EXAMPLE, "0x0 is not possible"),
    ((8,), EXAMPLE[0], r"shape \(3, 16, 16\). Give images"),
], ids=["none", "zero", "no-batch"])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, ...], example: torch.Tensor, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        evaluate_sizes(_pooling(), sizes, lambda m, size: 0.0, example=example)


def test_channels_last_inputs_are_resized_on_their_own_axes() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _pooling()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.inner(image.permute(0, 3, 1, 2))

    row, = evaluate_sizes(Last(), ((8, 12),), lambda m, size: 0.0, example=torch.zeros(2, 16, 16, 3),
                          preprocess=Preprocess((16, 16), layout="nhwc"))
    assert row.example.shape == (1, 8, 12, 3)


@pytest.mark.parametrize(("resize_to", "size", "expected"), [(None, 112, None), (256, 112, 128), (256, (224, 448), 512),
                                                             (224, 33, 33)])
def test_preprocessing_keeps_the_share_that_is_cut_out(resize_to: int | None, size: int | tuple[int, int],
                                                       expected: int | None) -> None:
    assert preprocess_at(Preprocess((224, 224), resize_to=resize_to), size).resize_to == expected

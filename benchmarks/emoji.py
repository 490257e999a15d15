"""A multi-label tagger of emoji scenes: the scenes, the network, its training (once, then cached).

    python benchmarks/emoji.py --sprites emoji.npz -o emoji.onnx [--epochs 10]

`--sprites` is an archive of `sprites` (uint8, vendor x class x 64 x 64 x RGBA) and `have` (which of them exist). A
scene is 64 pixels wide: one to three distinct emojis, scaled, turned and mirrored, on a gradient, with noise; its label
has a bit a class. The last vendor is left out of training. Calibration, test and training scenes differ by seed.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
SEEDS = {"train": 1_000, "test": 1, "calibration": 2, "style": 3}


def background(rng: np.random.Generator) -> np.ndarray:
    """Return a square of two colours, often with soft noise: (SIDE, SIDE, 3) float32, 0 to 255."""
    first, second = rng.uniform(0, 255, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    share = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    scene = first * share + second * (1 - share)
    if rng.random() < 0.6:
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        soft = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
        scene = scene + (soft - 128) * rng.uniform(0.1, 0.5)
    return np.clip(scene, 0, 255)


def scene(sprites: np.ndarray, have: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one scene, (3, SIDE, SIDE) float32 in -1..1, and its label, (classes,) float32."""
    picture = Image.fromarray(background(rng).astype(np.uint8))
    label = np.zeros(sprites.shape[1], np.float32)
    taken: list[np.ndarray] = []
    for number in rng.choice(sprites.shape[1], rng.integers(1, 4), replace=False):
        piece = Image.fromarray(sprites[rng.choice(np.flatnonzero(have[:, number])), number])
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        size = round(rng.uniform(0.36, 0.66) * SIDE)
        piece = piece.rotate(rng.uniform(-25, 25), Image.Resampling.BILINEAR).resize((size, size))
        corners = rng.integers(0, SIDE - size + 1, (8, 2))
        far = [min((np.abs(corner + size / 2 - other).max() for other in taken), default=SIDE) for corner in corners]
        corner = corners[int(np.argmax(far))]
        taken.append(corner + size / 2)
        picture.paste(piece, (int(corner[0]), int(corner[1])), piece)
        label[number] = 1
    values = np.asarray(picture, np.float32)
    values = (values - 128) * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20)
    values += rng.normal(0, rng.uniform(0, 8), values.shape)
    return (np.clip(values, 0, 255).transpose(2, 0, 1) / 127.5 - 1).astype(np.float32), label


def scenes(archive: Path, split: str, count: int, *, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` scenes, (N, 3, SIDE, SIDE), and their labels, (N, classes); "style" is the last vendor alone."""
    vendors = slice(-1, None) if split == "style" else slice(None, -1)
    with np.load(archive, allow_pickle=False) as data:
        sprites, have = data["sprites"][vendors], data["have"][vendors]
    rng = np.random.default_rng([SEEDS[split], epoch])
    made = [scene(sprites, have, rng) for _ in range(count)]
    return np.stack([each[0] for each in made]), np.stack([each[1] for each in made])


def network(classes: int, width: int = 24) -> Any:
    """Return a small ResNet: a stem and four stages of one block, about 0.7 million parameters."""
    from torch import Tensor, nn

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = convolution(inputs, outputs, 3, stride)
            self.second = convolution(outputs, outputs, 3)
            self.skip = convolution(inputs, outputs, 1, stride)

        def forward(self, x: Tensor) -> Tensor:
            return (self.second(self.first(x).relu()) + self.skip(x)).relu()

    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [Block(a, b, stride) for a, b, stride in zip(widths, widths[1:], (2, 2, 2, 1))]
    head = nn.Linear(widths[-1], classes)
    nn.init.constant_(head.bias, -4.0)  # a tag is rare: two of all classes in a scene
    return nn.Sequential(convolution(3, width, 3, 2), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def train(archive: Path, output: Path, *, epochs: int = 10, count: int = 8_000, batch: int = 32) -> None:
    """Train on fresh scenes every epoch and write the network as ONNX with a dynamic batch."""
    import torch

    torch.manual_seed(0)
    model: Any = None
    for epoch in range(epochs):
        inputs, labels = (torch.from_numpy(each) for each in scenes(archive, "train", count, epoch=epoch))
        if model is None:
            model = network(labels.shape[1]).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (count // batch))
        total = 0.0
        for rows in torch.randperm(count)[: count // batch * batch].split(batch):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]), labels[rows]) * 100
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch}: loss {total / (count // batch):.3f}", flush=True)
    partial = output.with_suffix(".partial.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(partial), input_names=["input"],
                          output_names=["logits"], opset_version=17, dynamo=False,
                          dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})
    partial.replace(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", type=Path, required=True, help="archive of the sprites")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    train(arguments.sprites, arguments.output, epochs=arguments.epochs)

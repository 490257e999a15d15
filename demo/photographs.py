"""Photographs that come inside scikit-image and scikit-learn -> folders for calibration and for evaluation.

Nine pictures are few, so each is cut several times: calibration and evaluation use other cuts of the same pictures.
That shows the way; for numbers that mean something take your own data (and see benchmarks/accuracy.py: 576 pictures).
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256

ACCEPTED = {
    "chelsea.png": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    "coffee.png": (504, 967, 968),  # coffee mug, espresso, cup
    "rocket.jpg": (657, 744),  # missile, projectile
    "camera.png": (759, 872),  # reflex camera, tripod
    "motorcycle_left.png": (665, 670),  # moped, motor scooter
}
"""ImageNet-1k classes that count as right; the other pictures have no class of their own and count for agreement."""

UNLABELLED = ("astronaut.png", "hubble_deep_field.jpg", "china.jpg", "flower.jpg")
CUTS = {"calibration": (10, 0.4), "evaluation": (8, 0.75)}
"""Cuts of each picture, and the smallest share of its shorter side that they show."""


def originals() -> dict[str, Image.Image]:
    """Return the pictures by file name."""
    folders = files("skimage") / "data", files("sklearn") / "datasets" / "images"
    found = {}
    for name in (*ACCEPTED, *UNLABELLED):
        path = next(Path(str(folder / name)) for folder in folders if Path(str(folder / name)).exists())
        found[name] = Image.open(path).convert("RGB")
    return found


def cut(picture: Image.Image, smallest: float, rng: np.random.Generator) -> Image.Image:
    """Return a random square of the picture, perhaps mirrored."""
    side = round(min(picture.size) * rng.uniform(smallest, 1.0))
    left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
    square = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def write(folder: Path) -> None:
    """Write folder/originals, folder/calibration and folder/evaluation (with labels.json)."""
    pictures = originals()
    (folder / "originals").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / "originals" / f"{Path(name).stem}.png")
    for number, (split, (count, smallest)) in enumerate(CUTS.items()):
        (folder / split).mkdir(exist_ok=True)
        labels = {}
        for index, (name, picture) in enumerate(pictures.items()):
            for variant in range(count):
                file = f"{Path(name).stem}-{variant}.png"
                cut(picture, smallest, np.random.default_rng([number, index, variant])).save(folder / split / file)
                if name in ACCEPTED:
                    labels[file] = ACCEPTED[name]
        if split == "evaluation":
            (folder / split / "labels.json").write_text(json.dumps(labels))

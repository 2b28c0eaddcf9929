"""Draws one scene of the built-in shapes data set: an image and its panoptic ground truth.

A scene is a pure function of its seed. Stuff fills large regions, things lie on top and hide each
other, some areas stay unlabelled. What the classes look like is in `shapes_classes`; here is what
goes where.

Shape shorthand: H, W are the image size in pixels; y points down, x to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .classes import (
    GRASS,
    PAVING,
    RADIUS_FACTOR,
    SKY,
    THING_IDS,
    UNLABELLED,
    WATER,
    Shape,
    blend,
    grid,
    paint_shape,
    paint_stuff,
    random_shape,
    shape_depth,
)

SHORT_SIDE = (96, 160)  # pixels, both ends included
MAX_LONG_SIDE = 224  # pixels
# least and largest radius of an object, in pixels and as a share of the short side; only the
# members of a crowd are smaller
RADIUS = {"many": (8.0, 0.14), "few": (11.0, 0.3)}
MIN_VISIBLE_AREA = 40  # pixels; less of an object is a sliver nobody could name
MIN_VISIBLE_SHARE = 0.15  # of the object's own area inside the image
MIN_STUFF_SHARE = 0.015  # of the image; smaller remnants of stuff stay unlabelled


@dataclass(frozen=True)
class Segment:
    """One panoptic segment; `id` is its value in `Scene.segment_ids`."""

    id: int
    category_id: int
    iscrowd: bool


@dataclass(frozen=True)
class Scene:
    """What `draw_scene` returns."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    segment_ids: np.ndarray  # (H, W) int32: UNLABELLED or the id of a segment
    segments: list[Segment]  # every one covers some pixels


@dataclass(frozen=True)
class _Object:
    """One thing segment: a single shape, or the many shapes of a crowd."""

    shapes: list[Shape]
    iscrowd: bool


def draw_scene(seed: int | Sequence[int]) -> Scene:
    """Draws the scene of `seed` (anything `np.random.default_rng` takes); same seed, same scene."""
    rng = np.random.default_rng(seed)
    size = _image_size(rng)
    rgb, stuff = _draw_stuff(rng, size)
    frame = _frame_depth(rng, size)
    objects = _visible_objects(_plan_objects(rng, size), blocked=frame > 0)

    for thing, _ in objects:
        for shape in thing.shapes:
            paint_shape(rgb, shape)
    blend(rgb, np.float32([0.06, 0.05, 0.07]), frame)

    stuff[frame > 0] = UNLABELLED
    segment_ids, segments = _label(stuff, objects)
    return Scene(_photograph(rng, rgb), segment_ids, segments)


def _image_size(rng: np.random.Generator) -> tuple[int, int]:
    """(H, W), a third of them portrait."""
    short = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1))
    long = min(MAX_LONG_SIDE, int(short * rng.uniform(1.0, 1.75)))
    return (long, short) if rng.random() < 0.35 else (short, long)


def _label(
    stuff: np.ndarray, objects: list[tuple[_Object, np.ndarray]]
) -> tuple[np.ndarray, list[Segment]]:
    """Numbers the segments 1, 2, ...: first the stuff, one segment a class, then the things.

    Args:
        stuff: (H, W) category ids, UNLABELLED where there are none.
        objects: each with its visible (H, W) bool mask; the masks are disjoint.
    """
    segment_ids = np.zeros(stuff.shape, np.int32)
    segments: list[Segment] = []
    covered = np.zeros(stuff.shape, bool)
    for _, mask in objects:
        covered |= mask
    for category_id in np.unique(stuff[stuff != UNLABELLED]).tolist():
        mask = (stuff == category_id) & ~covered
        if mask.mean() < MIN_STUFF_SHARE:
            continue
        segments.append(Segment(len(segments) + 1, category_id, False))
        segment_ids[mask] = segments[-1].id
    for thing, mask in objects:
        segments.append(Segment(len(segments) + 1, thing.shapes[0].category_id, thing.iscrowd))
        segment_ids[mask] = segments[-1].id
    return segment_ids, segments


def _photograph(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Lighting, white balance, slight blur and sensor noise: (H, W, 3) float -> uint8."""
    height, width = rgb.shape[:2]
    yy, xx = grid(height, width)
    direction = rng.uniform(0, 2 * math.pi)
    slope = math.cos(direction) * (xx / width - 0.5) + math.sin(direction) * (yy / height - 0.5)
    light = rng.uniform(0.82, 1.15) * (1 + rng.uniform(0, 0.35) * slope)
    rgb = np.clip(rgb * light[..., None], 0, 1) ** rng.uniform(0.9, 1.15)
    rgb = rgb * rng.uniform(0.94, 1.06, 3)
    if rng.random() < 0.4:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 0.8))
    rgb = rgb + rng.standard_normal(rgb.shape) * rng.uniform(0, 0.025)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------- stuff


def _draw_stuff(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The scene without objects: RGB in [0, 1] (H, W, 3) float32 and category ids (H, W) uint8."""
    rgb = np.zeros((*size, 3), np.float32)
    stuff = np.zeros(size, np.uint8)
    border = rng.uniform(0.8, 1.8) if rng.random() < 0.25 else 0.0  # half width, pixels
    for category_id, depth in _plan_layers(rng, size):
        blend(rgb, paint_stuff(rng, category_id, size), depth)
        stuff[depth > 0] = category_id
        stuff[np.abs(depth) < border] = UNLABELLED  # nobody could say whose pixel it is
    return rgb, stuff


def _plan_layers(rng: np.random.Generator, size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Layers in the order to paint them: (category id, depth (H, W)). The first covers it all."""
    height, width = size
    yy, xx = grid(height, width)
    everywhere = np.full(size, np.inf)
    ground, other = rng.permutation([GRASS, WATER, PAVING])[:2].tolist()
    kind = rng.choice(["horizon", "above", "sky"], p=[0.66, 0.3, 0.04])
    if kind == "sky":
        return [(SKY, everywhere)]
    if kind == "horizon":
        horizon = _wave(rng, xx, rng.uniform(0.28, 0.6) * height, 0.05 * height)
        layers = [(SKY, everywhere), (ground, yy - horizon)]
    else:
        horizon = np.full(size, -np.inf)
        layers = [(ground, everywhere)]
    top = np.maximum(horizon, 0)
    extra = rng.choice(["nothing", "band", "path", "pond"], p=[0.25, 0.35, 0.25, 0.15])
    if extra == "band":
        level = _wave(rng, xx, rng.uniform(0.4, 0.65), 0.06)  # share of the ground above it
        layers.append((other, yy - top - level * (height - top)))
    elif extra == "path":
        bend = _wave(rng, yy, rng.uniform(0.25, 0.75) * width, 0.08 * width)
        half = (0.08 + 0.12 * yy / height) * width  # wider where it is nearer
        layers.append((other, np.minimum(half - np.abs(xx - bend), yy - horizon)))
    elif extra == "pond":
        pond = _blob(rng, size, rng.uniform(0.22, 0.34) * min(size))
        layers.append((other, np.minimum(pond, yy - horizon)))
    if rng.random() < 0.2:
        layers.append((UNLABELLED, _blob(rng, size, rng.uniform(0.12, 0.25) * min(size))))
    return layers


def _wave(rng: np.random.Generator, along: np.ndarray, base: float, amplitude: float) -> np.ndarray:
    """A gently curved line: `base` plus two sines over the coordinate `along`; (H, W)."""
    turns = 2 * math.pi * along / along.max()
    slow = np.sin(rng.uniform(0.4, 1.2) * turns + rng.uniform(0, 2 * math.pi))
    fast = np.sin(rng.uniform(1.5, 2.5) * turns + rng.uniform(0, 2 * math.pi))
    return base + amplitude * (rng.uniform(0.4, 1.2) * slow + rng.uniform(0.1, 0.4) * fast)


def _blob(rng: np.random.Generator, size: tuple[int, int], radius: float) -> np.ndarray:
    """Depth (H, W) of a wobbly round region somewhere in the image."""
    yy, xx = grid(*size)
    dy = yy - rng.uniform(0.2, 0.8) * size[0]
    dx = (xx - rng.uniform(0.2, 0.8) * size[1]) * rng.uniform(0.65, 1.0)
    angle = np.arctan2(dy, dx)
    reach = np.full(size, radius)
    for lobes in (2, 3, 5):
        phase = rng.uniform(0, 2 * math.pi)
        reach += radius * rng.uniform(0.02, 0.1) * np.sin(lobes * angle + phase)
    return reach - np.hypot(dy, dx)


def _frame_depth(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Depth (H, W) of the dark unlabelled frame around a few images; -inf in the others."""
    if rng.random() >= 0.08:
        return np.full(size, -np.inf)
    yy, xx = grid(*size)
    edge = np.minimum.reduce([yy, xx, size[0] - 1 - yy, size[1] - 1 - xx])
    return rng.uniform(2.0, 6.0) - edge


# ---------------------------------------------------------------------------------------- things


def _plan_objects(rng: np.random.Generator, size: tuple[int, int]) -> list[_Object]:
    """Objects from back to front, some perhaps quite hidden. About one scene in 15 has none."""
    kind = rng.choice(["empty", "many", "few"], p=[0.07, 0.09, 0.84])
    if kind == "empty":
        return []
    count = int(rng.integers(9, 13) if kind == "many" else rng.integers(1, 5))
    least, largest = RADIUS[kind]
    shapes: list[Shape] = []
    for _ in range(count):
        radius = math.exp(rng.uniform(math.log(least), math.log(largest * min(size))))
        shapes.append(_place(rng, radius, size, shapes))
    objects = [_Object([shape], iscrowd=False) for shape in shapes]
    if rng.random() < 0.08:
        objects.insert(int(rng.integers(len(objects) + 1)), _plan_crowd(rng, size))
    return objects


def _place(
    rng: np.random.Generator, radius: float, size: tuple[int, int], others: list[Shape]
) -> Shape:
    """A random shape, where it hides others in part or, more often, touches them at most."""
    category_id = int(rng.choice(THING_IDS))
    radius *= RADIUS_FACTOR[category_id]
    nearness = 0.5 if rng.random() < 0.2 else 0.95  # distance allowed, as a share of both radii
    for _ in range(15):
        y, x = (rng.uniform(0.4 * radius, side - 0.4 * radius) for side in size)
        gaps = (math.hypot(o.x - x, o.y - y) - nearness * (o.radius + radius) for o in others)
        if min(gaps, default=0.0) >= 0:
            break
    return random_shape(rng, category_id, (y, x), radius)


def _plan_crowd(rng: np.random.Generator, size: tuple[int, int]) -> _Object:
    """A tight cluster of tiny objects of one class, too small to be told apart one by one."""
    category_id = int(rng.choice(THING_IDS))
    y, x = (rng.uniform(0.25, 0.75) * side for side in size)
    radius = rng.uniform(3.0, 4.0) * RADIUS_FACTOR[category_id]
    members: list[Shape] = []
    for _ in range(int(rng.integers(25, 50))):
        dy, dx = rng.standard_normal(2) * (6, 11)
        if all(math.hypot(m.y - y - dy, m.x - x - dx) > 1.5 * radius for m in members):
            members.append(random_shape(rng, category_id, (y + dy, x + dx), radius))
    return _Object(members, iscrowd=True)


def _visible_objects(
    objects: list[_Object], blocked: np.ndarray
) -> list[tuple[_Object, np.ndarray]]:
    """Drops objects that are mostly hidden; pairs the others with their visible (H, W) bool mask.

    Goes from front to back, because a dropped object is not drawn and so hides nothing.
    """
    taken = blocked.copy()
    kept: list[tuple[_Object, np.ndarray]] = []
    for thing in reversed(objects):
        own = np.zeros(taken.shape, bool)
        for shape in thing.shapes:
            window, depth = shape_depth(shape, taken.shape)
            own[window] |= depth > 0
        visible = own & ~taken
        if visible.sum() < max(MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE * own.sum()):
            continue
        taken |= visible
        kept.append((thing, visible))
    return kept[::-1]

"""The classes of the built-in shapes data set and what each looks like.

Every region is described by its *depth*: the signed distance in pixels from its outline, positive
inside. One number per pixel gives the antialiased image (``clip(depth + 0.5, 0, 1)`` is how much of
the pixel is covered), the binary mask (``depth > 0``) and the shading, so they cannot disagree.

Each class has a form and a colour family of its own. Within the family hue and brightness vary, so
that neighbours of one class can be told apart.

Shape shorthand: H, W are the image size and h, w a window's, in pixels; y points down, x right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SKY, DISK, GRASS, BOX, WATER, STAR, RING, PAVING, CONE = 1, 2, 4, 5, 7, 8, 11, 12, 14
UNLABELLED = 0

# Stuff and things interleave and the ids have gaps, so that code which mistakes a data set id for a
# contiguous id, or takes all things to come first, fails here and not on the user's own data.
CATEGORIES: list[dict] = [
    {"id": category_id, "name": name, "isthing": isthing, "supercategory": parent, "color": color}
    for category_id, name, isthing, parent, color in (
        (SKY, "sky", 0, "stuff", [120, 190, 240]),
        (DISK, "disk", 1, "thing", [220, 20, 60]),
        (GRASS, "grass", 0, "stuff", [90, 170, 70]),
        (BOX, "box", 1, "thing", [130, 60, 200]),
        (WATER, "water", 0, "stuff", [20, 100, 130]),
        (STAR, "star", 1, "thing", [250, 200, 20]),
        (RING, "ring", 1, "thing", [255, 120, 20]),
        (PAVING, "paving", 0, "stuff", [150, 140, 130]),
        (CONE, "cone", 1, "thing", [250, 70, 190]),
    )
]
THING_IDS = tuple(category["id"] for category in CATEGORIES if category["isthing"])

# A star or a cone of the same radius covers far less than a disk.
RADIUS_FACTOR = {DISK: 1.0, BOX: 1.05, STAR: 1.3, RING: 1.1, CONE: 1.2}

# Degrees
_HUES = {DISK: (-8, 8), BOX: (255, 280), STAR: (46, 60), RING: (20, 34), CONE: (308, 330)}
_SHADOW_REACH = 0.45  # of the radius: how far around a shape it darkens
_MAX_SHADOW_REACH = 6.0  # pixels


@dataclass(frozen=True)
class Shape:
    """One drawn figure. Lengths in pixels, angle in radians, hue in degrees."""

    category_id: int
    x: float
    y: float
    radius: float
    angle: float
    hue: float
    value: float  # brightness in [0, 1]
    style: float  # in [0, 1): proportions and pattern


def random_shape(
    rng: np.random.Generator, category_id: int, center: tuple[float, float], radius: float
) -> Shape:
    """A shape of a thing class at `center` = (y, x)."""
    turn = 0.4 if category_id == CONE else math.pi  # a cone stands, more or less
    return Shape(
        category_id=category_id,
        x=center[1],
        y=center[0],
        radius=radius,
        angle=rng.uniform(-turn, turn),
        hue=rng.uniform(*_HUES[category_id]),
        value=rng.uniform(0.72, 1.0),
        style=rng.random(),
    )


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (yy, xx), each (H, W) float."""
    yy, xx = np.mgrid[:height, :width].astype(np.float64)
    return yy, xx


def blend(rgb: np.ndarray, color: np.ndarray, depth: np.ndarray) -> None:
    """Paints `color` in place on `rgb` (H, W, 3) where `depth` > 0, antialiased over one pixel."""
    alpha = np.clip(depth + 0.5, 0, 1)[..., None].astype(np.float32)
    rgb += alpha * (color - rgb)


def _hsv(hue, saturation, value) -> np.ndarray:
    """Broadcasts hue (degrees), saturation and value ([0, 1]) to RGB: (..., 3) float32."""
    saturation, value = np.clip(saturation, 0, 1), np.clip(value, 0, 1)
    hsv = np.stack(np.broadcast_arrays(np.mod(hue, 360.0), saturation, value), axis=-1)
    flat = hsv.astype(np.float32).reshape(-1, 1, 3)
    return cv2.cvtColor(flat, cv2.COLOR_HSV2RGB).reshape(hsv.shape)


# ----------------------------------------------------------------------------------------- stuff


def paint_stuff(rng: np.random.Generator, category_id: int, size: tuple[int, int]) -> np.ndarray:
    """An image of `size` = (H, W) full of one stuff class, or of what is unlabelled: (H, W, 3)."""
    return _TEXTURES[category_id](rng, size)


def _noise(
    rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]
) -> np.ndarray:
    """Smooth noise, mean 0 and about unit variance: (H, W), blobs of `cell` = (y, x) pixels."""
    height, width = size
    coarse = rng.standard_normal((int(height / cell[0]) + 3, int(width / cell[1]) + 3))
    smooth = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth / max(float(smooth.std()), 1e-6)


def _sky(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A gradient, paler towards the bottom, with clouds."""
    yy, _ = grid(*size)
    down = yy / size[0]
    color = _hsv(rng.uniform(203, 222), rng.uniform(0.5, 0.7) - 0.4 * down, 0.86 + 0.12 * down)
    puffs = _noise(rng, size, (14, 34)) + 0.5 * _noise(rng, size, (6, 14))
    clouds = np.clip((puffs - rng.uniform(0.5, 1.4)) / 1.5, 0, 0.85)[..., None]
    return color + clouds * (1 - color)


def _grass(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise: soft patches and upright blades."""
    patches = _noise(rng, size, (18, 24))
    blades = _noise(rng, size, (5, 1.3))
    value = rng.uniform(0.45, 0.6) + 0.04 * patches + 0.075 * blades
    return _hsv(rng.uniform(92, 120) - 6 * patches, 0.62 + 0.05 * blades, value)


def _water(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Wavy stripes, widening towards the viewer."""
    yy, xx = grid(*size)
    ripple = 1.6 * _noise(rng, size, (10, 22)) + 1.5 * np.sin(xx / rng.uniform(6, 12))
    turns = (yy + ripple) / rng.uniform(6, 8) * (1.15 - 0.2 * yy / size[0])
    crest = np.clip(np.sin(2 * math.pi * turns) - 0.45, 0, 1) * 1.3
    return _hsv(rng.uniform(178, 196), 0.82 - 0.5 * crest, rng.uniform(0.4, 0.5) + 0.3 * crest)


def _paving(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two-tone checks with dark joints, turned by some angle."""
    yy, xx = grid(*size)
    tilt, tile = rng.uniform(-0.5, 0.5), rng.uniform(8, 12)  # radians, pixels
    u = (math.cos(tilt) * xx + math.sin(tilt) * yy) / tile
    v = (math.cos(tilt) * yy - math.sin(tilt) * xx) / tile
    checks = np.clip(4 * np.sin(math.pi * u) * np.sin(math.pi * v), -1, 1)
    joint = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) * tile
    value = rng.uniform(0.5, 0.66) + 0.09 * checks + 0.015 * _noise(rng, size, (2, 2))
    value = value * (0.78 + 0.22 * np.minimum(joint, 1))
    return _hsv(rng.uniform(18, 42), 0.14 + 0.04 * checks, value)


def _rubble(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """What nobody labelled: dim, lumpy, of hardly any colour."""
    lumps = _noise(rng, size, (7, 7)) + 0.6 * _noise(rng, size, (3, 3))
    return _hsv(rng.uniform(300, 340), 0.1, rng.uniform(0.2, 0.3) + 0.05 * lumps)


_TEXTURES: dict[int, Callable] = {
    UNLABELLED: _rubble,
    SKY: _sky,
    GRASS: _grass,
    WATER: _water,
    PAVING: _paving,
}


# ---------------------------------------------------------------------------------------- things


def paint_shape(rgb: np.ndarray, shape: Shape) -> None:
    """Draws a shape with its shadow and outline in place on `rgb` (H, W, 3)."""
    window, depth = shape_depth(shape, rgb.shape[:2])
    u, v = _local(shape, window)
    patch = rgb[window]
    shadow = 0.35 * np.clip(1 + depth / _shadow_reach(shape), 0, 1) ** 2
    patch *= (1 - shadow)[..., None].astype(np.float32)
    color = _PATTERNS[shape.category_id](u / shape.radius, v / shape.radius, shape)
    outline = np.clip(depth / min(2.0, 0.25 * shape.radius), 0, 1)  # keeps alike neighbours apart
    blend(patch, color * (0.45 + 0.55 * outline)[..., None].astype(np.float32), depth)


def shape_depth(shape: Shape, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window (rows, columns) of an image of `size` that a shape touches; its depth there."""
    reach = shape.radius + _shadow_reach(shape) + 1
    rows, columns = (
        slice(min(side, max(0, int(center - reach))), max(0, min(side, int(center + reach) + 1)))
        for center, side in zip((shape.y, shape.x), size, strict=True)
    )
    u, v = _local(shape, (rows, columns))
    return (rows, columns), _DEPTHS[shape.category_id](u, v, shape)


def _shadow_reach(shape: Shape) -> float:
    return min(_MAX_SHADOW_REACH, _SHADOW_REACH * shape.radius)


def _local(shape: Shape, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """The window's pixels in coordinates (u, v) about the shape's centre that turn with it."""
    yy, xx = np.mgrid[window].astype(np.float64)
    dy, dx = yy - shape.y, xx - shape.x
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _disk_depth(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    return shape.radius - np.hypot(u, v)


def _ring_depth(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    return 0.28 * shape.radius - np.abs(np.hypot(u, v) - 0.72 * shape.radius)


def _box_depth(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    corner = 0.12 * shape.radius
    half = 0.88 * shape.radius - corner
    du, dv = np.abs(u) - half, np.abs(v) - half * (0.6 + 0.4 * shape.style)
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return corner - outside - np.minimum(np.maximum(du, dv), 0)


def _star_depth(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    turns = np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 0.97, 0.47) * shape.radius
    return _polygon_depth(u, v, np.stack([radii * np.sin(turns), -radii * np.cos(turns)], axis=1))


def _cone_depth(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    half = 0.55 + 0.2 * shape.style
    corners = np.array([[0.0, -0.9], [half, 0.65], [-half, 0.65]])
    return _polygon_depth(u, v, corners * shape.radius) + 0.06 * shape.radius  # rounded


def _polygon_depth(u: np.ndarray, v: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance (h, w) from a polygon with `corners` (N, 2) = (u, v), positive inside."""
    nearest = np.full(u.shape, np.inf)
    inside = np.zeros(u.shape, bool)
    for (u0, v0), (u1, v1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        du, dv = u1 - u0, v1 - v0
        along = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv), 0, 1)
        nearest = np.minimum(nearest, np.hypot(u - u0 - along * du, v - v0 - along * dv))
        if dv != 0:  # even-odd rule: does a ray to the right cross this edge?
            inside ^= ((v0 > v) != (v1 > v)) & (u < u0 + (v - v0) * du / dv)
    return np.where(inside, nearest, -nearest)


def _disk_pattern(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    """A ball: lit from one side, with a glint; some have a paler stripe."""
    light = np.clip(1 - np.hypot(u + 0.35, v + 0.35) / 1.5, 0, 1)
    stripe = 0.3 * (np.abs(v) < 0.22) * (shape.style > 0.5)
    glint = np.clip(light - 0.86, 0, 1) * 4
    return _hsv(shape.hue, 0.88 - stripe - glint, shape.value * (0.6 + 0.45 * light) + glint)


def _box_pattern(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    """A crate: stripes of two tones along its length, in a darker frame."""
    stripes = np.clip(3 * np.sin(2 * math.pi * (1.2 + shape.style) * u), -1, 1)
    return _hsv(shape.hue, 0.6 - 0.12 * stripes, shape.value * (0.72 + 0.16 * stripes))


def _star_pattern(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    """Gold, paler in the middle."""
    glow = np.clip(1 - 1.4 * np.hypot(u, v), 0, 1)
    return _hsv(shape.hue, 0.92 - 0.55 * glow, shape.value * (0.9 + 0.1 * glow))


def _ring_pattern(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    """A lifebuoy: white, with four bands of one colour."""
    around = np.arctan2(v, u)
    bands = np.clip(4 * np.sin(4 * around) - 1.6, 0, 1)
    tube = 1 - 0.9 * np.clip(np.abs(np.hypot(u, v) - 0.72), 0, 0.28)
    return _hsv(shape.hue, 0.75 * bands, (shape.value * 0.4 + 0.6) * (1 - 0.2 * bands) * tube)


def _cone_pattern(u: np.ndarray, v: np.ndarray, shape: Shape) -> np.ndarray:
    """A traffic cone: orange with one or two white stripes."""
    period = 0.8 if shape.style < 0.5 else 0.55
    stripes = np.clip(6 * np.sin(2 * math.pi * (v + 0.1) / period) - 2.5, 0, 1)
    shade = 1 - 0.25 * np.clip(u + 0.2, 0, 1)
    return _hsv(shape.hue, 0.95 - 0.87 * stripes, shape.value * shade)


_DEPTHS: dict[int, Callable] = {
    DISK: _disk_depth,
    BOX: _box_depth,
    STAR: _star_depth,
    RING: _ring_depth,
    CONE: _cone_depth,
}
_PATTERNS: dict[int, Callable] = {
    DISK: _disk_pattern,
    BOX: _box_pattern,
    STAR: _star_pattern,
    RING: _ring_pattern,
    CONE: _cone_pattern,
}

"""Synthetic scenes: 20 categories of shape and texture on cluttered backgrounds (:func:`draw_scene`).

Each category is one of ten shapes with one of five textures and a tendency towards one of six hues; every shape is
shared by two categories, every texture by four, every hue by three or four. So no single one of these cues tells all
categories apart, as in photographs. Which categories meet in one image is as uneven as in VOC: one of them plays the
part of VOC's *person* and meets nearly all others, a few pairs are common, and some categories are mostly alone.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import cv2
import numpy as np

from ...manifests.labels import VOID, LabelSet, voc_palette


class Category(NamedTuple):
    """How a category looks and whom it meets."""

    shape: str
    texture: str
    hue: float
    """Mean hue in [0, 1); an object's own lies within ±0.05 of it."""
    weight: float
    """How often an image starts with it, relative to the others."""
    sociable: float
    """Probability that something else joins an image that starts with it."""
    friends: tuple[int, ...] = ()
    """Rows of :data:`CATEGORIES` (from 0) that it meets often."""

    @property
    def name(self) -> str:
        """For instance ``striped-disc``."""
        return f"{self.texture}-{self.shape}"


RED, ORANGE, GREEN, CYAN, BLUE, PINK = 0.0, 0.11, 0.33, 0.5, 0.63, 0.85

HUB = 14
"""Row of the category that meets nearly all others; where *person* stands among VOC's categories."""

CATEGORIES = (
    Category("disc", "plain", RED, 1.0, 0.15),
    Category("disc", "striped", BLUE, 1.1, 0.6, (HUB,)),
    Category("ring", "dotted", GREEN, 1.2, 0.15),
    Category("ring", "plain", ORANGE, 0.9, 0.35, (HUB,)),
    Category("square", "checked", CYAN, 1.1, 0.7, (8, 10)),
    Category("square", "dotted", PINK, 0.9, 0.5, (6, HUB)),
    Category("bar", "striped", ORANGE, 1.2, 0.6, (5, HUB)),
    Category("bar", "banded", BLUE, 1.4, 0.15),
    Category("triangle", "plain", GREEN, 1.4, 0.75, (4, 10, 17)),
    Category("triangle", "striped", RED, 0.8, 0.2),
    Category("star", "dotted", CYAN, 0.8, 0.85, (8, HUB)),
    Category("star", "checked", PINK, 1.3, 0.35, (HUB,)),
    Category("cross", "banded", RED, 0.9, 0.7, (HUB,)),
    Category("cross", "plain", BLUE, 0.9, 0.6, (HUB,)),
    Category("crescent", "striped", GREEN, 3.2, 0.6),
    Category("crescent", "checked", ORANGE, 0.9, 0.5, (8,)),
    Category("heart", "banded", CYAN, 0.9, 0.1),
    Category("heart", "dotted", RED, 0.9, 0.6, (8, HUB)),
    Category("hexagon", "checked", BLUE, 1.0, 0.15),
    Category("hexagon", "banded", PINK, 1.0, 0.5, (HUB, 8)),
)

SHAPE_LABELS = LabelSet(names=("background", *(c.name for c in CATEGORIES)), palette=voc_palette(21))
"""Class 0 is the background, class i + 1 is row i of :data:`CATEGORIES`."""

MAX_OBJECTS = 4
MIN_VISIBLE = 0.35
"""An object is dropped when it would hide more than the rest of one drawn before it."""


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: an image (h, w, 3) uint8 RGB and its label map (h, w) uint8 for :data:`SHAPE_LABELS`.

    The longer side is ``size`` pixels, the other 65 to 100 % of it. Everything is drawn from ``rng``.
    """
    short = round(size * rng.uniform(0.65, 1.0))
    height, width = (short, size) if rng.random() < 0.7 else (size, short)
    canvas = _background(rng, height, width)
    owner = np.full((height, width), -1, np.int16)  # which object shows at a pixel
    drawn: list[tuple[int, int]] = []  # (category, pixels) of the objects so far
    for category in choose_categories(rng):
        for _ in range(6):
            alpha, u, v = _place(rng, CATEGORIES[category].shape, height, width, first=not drawn)
            inside = alpha >= 0.5
            hides = any(
                np.count_nonzero((owner == index) & ~inside) < MIN_VISIBLE * pixels
                for index, (_, pixels) in enumerate(drawn)
            )
            if not hides and np.count_nonzero(inside) >= 0.01 * inside.size:
                break
        else:
            continue  # no room: one object less
        canvas += alpha[:, :, None] * (_texture(rng, CATEGORIES[category], u, v, size) - canvas)
        owner[inside] = len(drawn)
        drawn.append((category, int(np.count_nonzero(inside))))
    values = np.array([*(category + 1 for category, _ in drawn), 0], np.uint8)
    labels = values[owner]  # -1, no object, is the last one: background
    labels[_outlines(owner, width=2 + size // 150)] = VOID
    return _photograph(rng, canvas), labels


def _outlines(owner: np.ndarray, width: int) -> np.ndarray:
    """(h, w) bool: a line of some ``width`` pixels where one object's visible part meets something else."""
    kernel = np.ones((3, 3), np.uint8)
    indices = owner.astype(np.uint8)
    edges = (cv2.dilate(indices, kernel) != cv2.erode(indices, kernel)).astype(np.uint8)  # 2 pixels wide
    return cv2.dilate(edges, np.ones((width - 1, width - 1), np.uint8)) > 0


def choose_categories(rng: np.random.Generator) -> list[int]:
    """The rows of :data:`CATEGORIES` of a scene's 1 to 4 objects, in drawing order; repetitions are possible."""
    weights = np.array([category.weight for category in CATEGORIES])
    first = int(rng.choice(len(CATEGORIES), p=weights / weights.sum()))
    chosen, sociable = [first], CATEGORIES[first].sociable
    while len(chosen) < MAX_OBJECTS and rng.random() < sociable:
        chosen.append(int(rng.choice(len(CATEGORIES), p=COMPANY[first])))
        sociable *= 0.8
    return [chosen[index] for index in rng.permutation(len(chosen))]


def _company() -> np.ndarray:
    """(20, 20) float64: with which probability each category joins an image that starts with the row's."""
    likes = np.eye(len(CATEGORIES))
    for row, category in enumerate(CATEGORIES):
        likes[row, list(category.friends)] = 1.0
        likes[list(category.friends), row] = 1.0
    likes += 0.12 * np.array([category.sociable for category in CATEGORIES])  # and the rare rest is anybody
    return likes / likes.sum(axis=1, keepdims=True)


COMPANY = _company()


def outline(shape: str) -> list[np.ndarray]:
    """The contours of a shape, (n, 2) float64 points (x right, y down) within the unit circle; a second is a hole."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    match shape:
        case "disc":
            return [circle]
        case "ring":
            return [circle, 0.5 * circle]
        case "square":
            return [np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.7]
        case "bar":
            return [np.array([[-1.0, -0.35], [1.0, -0.35], [1.0, 0.35], [-1.0, 0.35]]) * 0.94]
        case "triangle":
            return [_regular(3)]
        case "star":
            return [_regular(10) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]]
        case "cross":
            arm = 0.34
            corners = [[arm, 1.0], [arm, arm], [1.0, arm], [1.0, -arm], [arm, -arm], [arm, -1.0]]
            return [0.94 * np.array([*corners, *([-x, -y] for x, y in corners)])]
        case "crescent":
            # The outer arc leaves an opening of ±0.9 rad to the right; the inner one joins its two ends.
            outer = np.linspace(0.9, 2 * np.pi - 0.9, 40)
            center, end = 0.35, np.array([np.cos(0.9), np.sin(0.9)])
            reach = np.hypot(end[0] - center, end[1])
            inner = np.linspace(-1, 1, 40) * (np.pi - np.arctan2(end[1], end[0] - center)) + np.pi
            arcs = (np.cos(outer), np.sin(outer)), (center + reach * np.cos(inner), reach * np.sin(inner))
            return [np.concatenate([np.stack(arcs[0], axis=1), np.stack(arcs[1], axis=1)[::-1]])]
        case "heart":
            x = 16 * np.sin(turn) ** 3
            y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
            return [np.stack([x, -y - 2.5], axis=1) / 18]
        case "hexagon":
            return [_regular(6)]
    raise ValueError(f"no shape {shape!r}")


def _regular(corners: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.sin(turn), -np.cos(turn)], axis=1)


def _place(
    rng: np.random.Generator, shape: str, height: int, width: int, *, first: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put a shape somewhere: its coverage (h, w) float32 in [0, 1], and x and y (h, w) pixels in the object's frame."""
    radius = min(height, width) * (rng.uniform(0.28, 0.48) if first else rng.uniform(0.2, 0.36))
    center = rng.uniform(0.15, 0.85, 2) * [width, height]
    angle = rng.normal(0, 0.5)  # things mostly stand upright
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    aspect = np.array([rng.uniform(0.75, 1.0), 1.0])
    scale = 4  # supersampling of the outline
    contours = [np.round(((c * aspect * radius) @ turned + center) * scale).astype(np.int32) for c in outline(shape)]
    mask = np.zeros((height * scale, width * scale), np.uint8)
    cv2.fillPoly(mask, contours, (255,))
    alpha = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return alpha, *_frame(height, width, center, angle)


def _frame(height: int, width: int, center: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y (h, w) float32 in pixels, of a frame turned by ``angle`` about ``center``."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _texture(rng: np.random.Generator, category: Category, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) float32 colours in 0..255 of an object's surface, over its own frame."""
    hue = category.hue + rng.uniform(-0.03, 0.03)
    value = rng.uniform(0.8, 1.0)
    ground = _hsv(hue, rng.uniform(0.8, 0.95), value)
    # The second colour is a darker or a paler one of the same hue.
    ink = _hsv(hue, 0.8, 0.3 * value) if rng.random() < 0.7 else _hsv(hue, 0.15, value)
    period = size * rng.uniform(0.08, 0.1)
    pattern = _pattern(category.texture, x, y, period, rng.uniform(0, 2 * np.pi))[:, :, None]
    slope = rng.normal(0, 0.2, 2)
    light = 1 + (slope[0] * x + slope[1] * y) / size
    return ((ground + pattern * (ink - ground)) * light[:, :, None]).astype(np.float32)


def _pattern(texture: str, x: np.ndarray, y: np.ndarray, period: float, phase: float) -> np.ndarray:
    """(h, w) float32 in [0, 1]: how much of the second colour shows."""
    a, b = 2 * np.pi / period * x + phase, 2 * np.pi / period * y + phase
    match texture:
        case "plain":
            return np.zeros_like(x)
        case "striped":
            wave = np.sin(a)
        case "checked":
            wave = np.sin(a / 1.5) * np.sin(b / 1.5) * 2
        case "dotted":
            wave = np.cos(a) + np.cos(b) - 0.9
        case "banded":
            wave = np.sin(np.hypot(a - phase, b - phase) + phase)
        case _:
            raise ValueError(f"no texture {texture!r}")
    return np.clip(0.5 + 2 * wave, 0, 1)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(h, w, 3) float32: pale clouds, and a little clutter that has the objects' hues and textures.

    Calmer than photographs on purpose: a blend weakens both its images, and the small network of the demo has only
    minutes to find objects in the weaker one.
    """
    size = max(height, width)
    x, y = _frame(height, width, np.array([width / 2, height / 2]), rng.uniform(0, 2 * np.pi))
    tint = _hsv(rng.random(), rng.uniform(0.0, 0.15), rng.uniform(0.4, 0.6))
    canvas = np.broadcast_to(tint, (height, width, 3)).copy()
    for cells, strength in ((3, 10.0), (9, 6.0), (30, 4.0)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 3)):
        clutter = np.zeros((height, width), np.uint8)
        corner = rng.uniform(0, 1, 2) * [width, height]
        points = np.round(corner + rng.normal(0, 0.08 * size, (rng.integers(2, 6), 2))).astype(np.int32)
        if rng.random() < 0.5:
            cv2.polylines(clutter, [points], isClosed=False, color=(255,), thickness=int(rng.integers(1, 4)))
        else:
            cv2.fillPoly(clutter, [points], (255,))
        alpha = (clutter * np.float32(rng.uniform(0.3, 0.9) / 255))[:, :, None]
        lookalike = CATEGORIES[rng.integers(len(CATEGORIES))]._replace(hue=rng.random())
        canvas += alpha * (_texture(rng, lookalike, x, y, size) - canvas)
    return canvas


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: exposure, colour cast, a little blur and sensor noise."""
    canvas = canvas * (rng.uniform(0.75, 1.15) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.9))
    canvas += rng.normal(0, rng.uniform(2, 8), canvas.shape).astype(np.float32)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) float32 RGB in 0..255."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255

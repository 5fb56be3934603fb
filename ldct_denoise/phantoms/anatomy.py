"""Anatomy of a synthetic patient: smooth organs, bones, vessels and gas that vary with a seed.

Every organ is an ellipsoid with a wavy outline, given in fractions of the body so that it fits thin and stout
patients. The position along the body is 0 at the mid-abdomen (kidneys, bowel), 0.5 at the liver and spleen, and 1
in the chest with heart and lungs. HU are those of a contrast-enhanced venous phase at 120 kV.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1000.0
#: Numbers of waves around an outline.
WAVES = np.arange(2, 5)


@dataclass(frozen=True)
class Shape:
    """A filled ellipse with a wavy outline in one slice.

    Parameters
    ----------
    x_mm, y_mm : float
        Centre (x to the right of the image, y down), mm.
    a_mm, b_mm : float
        Half axes, mm.
    hu, texture_hu : float
        Mean, and standard deviation of the fine structure, HU.
    angle : float
        Direction of the first half axis, rad.
    waves : tuple of 6 floats
        Amplitudes, relative to the radius, of the cosines of 2, 3 and 4 times the angle, then their phases.
    min_y_mm : float
        Upper limit of the shape: parts above this y are cut off (fluid under gas, a table under a body), mm.
    """

    x_mm: float
    y_mm: float
    a_mm: float
    b_mm: float
    hu: float
    texture_hu: float = 0.0
    angle: float = 0.0
    waves: tuple[float, ...] = ()
    min_y_mm: float = -math.inf

    @property
    def max_radius_mm(self) -> float:
        """Upper bound of the distance of any point from the centre, mm."""
        return max(self.a_mm, self.b_mm) * (1 + sum(abs(wave) for wave in self.waves[:3]))

    def inside(self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mask of the points of a grid inside the shape; ``x_mm`` of the columns, ``y_mm`` of the rows."""
        x, y = x_mm[None] - self.x_mm, y_mm[:, None] - self.y_mm
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along, across = (x * cos + y * sin) / self.a_mm, (y * cos - x * sin) / self.b_mm
        radius = np.hypot(along, across)
        if not self.waves:
            found = radius <= 1
        else:
            turn = np.arctan2(across, along)
            amplitudes, phases = np.array(self.waves[:3]), np.array(self.waves[3:])
            found = radius <= 1 + sum(
                a * np.cos(n * turn + p) for n, a, p in zip(WAVES, amplitudes, phases, strict=True)
            )
        return np.asarray(found & (y_mm[:, None] >= self.min_y_mm))


@dataclass(frozen=True)
class Organ:
    """An organ: an ellipsoid in fractions of the body.

    Parameters
    ----------
    x, y, a, b : float
        Centre and half axes of the largest cross-section, in half widths and half depths of the body cavity.
    along, length : float
        Position of the largest cross-section along the body, and the distance from there to the ends.
    hu, texture_hu, angle : float
        As in :class:`Shape`.
    waviness : float
        Largest amplitude of the outline's waves, relative to the radius.
    end_exponent : float
        2 for an ellipsoid; with larger values the cross-section stays large until near the ends.
    """

    x: float
    y: float
    a: float
    b: float
    along: float
    length: float
    hu: float
    texture_hu: float = 3.0
    angle: float = 0.0
    waviness: float = 0.06
    end_exponent: float = 2.0


ORGANS = {
    "liver": Organ(-0.38, -0.10, 0.62, 0.82, 0.50, 0.36, 78, 4, 0.25, 0.07, 3),
    "liver, left": Organ(0.02, -0.46, 0.48, 0.30, 0.54, 0.22, 78, 4, 0.15, 0.07, 2),
    "gallbladder": Organ(-0.30, -0.38, 0.12, 0.20, 0.36, 0.12, 10, 1, 0.3),
    "spleen": Organ(0.66, 0.22, 0.24, 0.46, 0.50, 0.26, 88, 4, -0.25),
    "stomach": Organ(0.36, -0.34, 0.34, 0.30, 0.54, 0.26, 28, 4, 0.4, 0.08, 3),
    "pancreas": Organ(0.06, -0.06, 0.34, 0.11, 0.38, 0.12, 70, 6, -0.35, 0.10),
    "kidney, right": Organ(-0.44, 0.42, 0.19, 0.27, 0.20, 0.26, 125, 6, 0.4),
    "pelvis, right": Organ(-0.38, 0.42, 0.07, 0.12, 0.20, 0.12, 10, 1, 0.4, 0.12),
    "kidney, left": Organ(0.46, 0.42, 0.19, 0.27, 0.24, 0.26, 125, 6, -0.4),
    "pelvis, left": Organ(0.40, 0.42, 0.07, 0.12, 0.24, 0.12, 10, 1, -0.4, 0.12),
    "psoas, right": Organ(-0.22, 0.56, 0.13, 0.20, 0.00, 0.36, 60, 4),
    "psoas, left": Organ(0.22, 0.56, 0.13, 0.20, 0.00, 0.36, 60, 4),
    "lung, right": Organ(-0.54, 0.04, 0.44, 0.86, 1.05, 0.45, -850, 14, 0.05, 0.05, 3),
    "lung, left": Organ(0.56, 0.08, 0.42, 0.82, 1.05, 0.44, -850, 14, -0.05, 0.05, 3),
    "heart": Organ(0.14, -0.26, 0.44, 0.42, 0.86, 0.20, 60, 4, 0.5, 0.05, 3),
    "ventricle, left": Organ(0.26, -0.20, 0.17, 0.19, 0.86, 0.14, 130, 3, 0.5, 0.08),
    "ventricle, right": Organ(0.02, -0.36, 0.19, 0.14, 0.86, 0.14, 125, 3, 0.5, 0.10),
}  # fmt: skip


class Anatomy:
    """The anatomy of one patient.

    Parameters
    ----------
    seed : int
        Determines size, organs, vessels and bowel.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([7, seed])
        self.width_mm, self.depth_mm = float(rng.uniform(145, 178)), float(rng.uniform(98, 125))
        self.fat_mm = float(rng.uniform(8, 30))
        self._organs = {name: self._varied(organ, rng) for name, organ in ORGANS.items()}
        self._liver_vessels = [_Vessel.draw(rng, (-0.42, -0.10, 0.5), 0.55, 1.2) for _ in range(36)]
        self._lung_vessels = [
            _Vessel.draw(rng, (side * 0.25, 0.02, 0.95), 0.75, 1.0) for side in (-1, 1) for _ in range(90)
        ]
        self._bowel = rng.uniform(-1, 1, (16, 6))
        self._outline = (*rng.uniform(-0.02, 0.02, 3), *rng.uniform(0, 2 * math.pi, 3))
        self._ribs = float(rng.uniform(0, 1))

    @staticmethod
    def _varied(organ: Organ, rng: np.random.Generator) -> tuple[Organ, tuple[float, ...]]:
        """The organ with random variations of position, size, HU and outline."""
        size, shift = rng.normal(1, 0.05, 2), rng.normal(0, 0.015, 3)
        waves = (*rng.uniform(-organ.waviness, organ.waviness, 3), *rng.uniform(0, 2 * math.pi, 3))
        hu = organ.hu + (rng.normal(0, 6) if organ.hu > 0 else 10 * rng.normal())
        varied = Organ(
            organ.x + shift[0], organ.y + shift[1], organ.a * size[0], organ.b * size[1], organ.along + shift[2],
            organ.length, float(hu), organ.texture_hu, organ.angle, organ.waviness, organ.end_exponent,
        )  # fmt: skip
        return varied, tuple(float(wave) for wave in waves)

    @property
    def cavity_mm(self) -> tuple[float, float]:
        """Half width and half depth inside the muscle wall, mm."""
        return self.width_mm - self.fat_mm - 14, self.depth_mm - 0.6 * self.fat_mm - 14

    def organ_point_mm(self, organ: str, x: float, y: float) -> tuple[float, float]:
        """Position of a point in the largest cross-section of an organ.

        Parameters
        ----------
        organ : str
            A key of :data:`ORGANS`.
        x, y : float
            Offset from the centre in fractions of the half axes.

        Returns
        -------
        tuple of 2 floats
            mm.
        """
        found = self._organs[organ][0]
        width, depth = self.cavity_mm
        return width * (found.x + x * found.a), depth * (found.y + y * found.b)

    def shapes(self, along: float) -> list[Shape]:
        """Shapes of the slice at position ``along`` (0 abdomen … 1 chest); later shapes cover earlier ones."""
        found = [*self._table(), *self._wall()]
        found += [shape for name in ORGANS for shape in self._section(name, along)]
        if along < 0.36:
            found += self._loops(along)
        found += [*self._stomach_gas(along), *self._bones(along), *self._vessels(along)]
        return found

    def _wall(self) -> list[Shape]:
        w, d, (cw, cd) = self.width_mm, self.depth_mm, self.cavity_mm
        muscle = self._outline
        return [
            Shape(0, 0, w, d, 20, 3, waves=self._outline),  # skin
            Shape(0, 0, w - 2, d - 2, -105, 7, waves=self._outline),
            Shape(0, 0, cw + 14, cd + 14, 58, 7, waves=muscle),
            Shape(0, 0, cw, cd, -100, 7, waves=muscle),
        ]

    def _table(self) -> list[Shape]:
        """A curved carbon shell filled with foam, under the back."""
        top, radius, found = self.depth_mm + 3, 520.0, []
        for depth, hu in ((25, -250), (22, -965), (3, -250), (0, AIR_HU)):
            found.append(Shape(0, top + depth - radius, radius, radius, hu, min_y_mm=top - 45 + depth))
        return found

    def _section(self, name: str, along: float) -> list[Shape]:
        organ, waves = self._organs[name]
        away = abs(along - organ.along) / organ.length
        if away >= 1:
            return []
        scale = (1 - away**organ.end_exponent) ** (1 / organ.end_exponent)
        width, depth = self.cavity_mm
        return [
            Shape(
                organ.x * width, organ.y * depth, max(organ.a * width * scale, 1), max(organ.b * depth * scale, 1),
                organ.hu, organ.texture_hu, organ.angle, waves,
            )
        ]  # fmt: skip

    def _loops(self, along: float) -> Iterator[Shape]:
        """Bowel loops: wall, content, and gas above the fluid."""
        width, depth = self.cavity_mm
        for x, y, size, gas, phase, turn in self._bowel:
            sway = 0.06 * np.sin(9 * along + 6 * phase)
            cx, cy = width * (0.62 * x + sway), depth * (-0.36 + 0.36 * y - sway)
            if cx < -0.1 * width and along > 0.16:  # the liver is there
                continue
            radius = 13 + 4 * size
            for shrink, hu in ((0, 75), (2.5, 25 + 15 * phase)):
                yield Shape(
                    cx, cy, radius + 4 - shrink, radius - shrink, hu, 4, 3 * turn, (0.05, 0.05, 0, 0, phase, 0)
                )
            if gas > 0.1:
                yield Shape(cx, cy - 0.35 * radius, 0.75 * radius, 0.42 * radius, -950, 0, 0)

    def _stomach_gas(self, along: float) -> Iterator[Shape]:
        for stomach in self._section("stomach", along):
            a, b = stomach.a_mm, stomach.b_mm
            yield Shape(stomach.x_mm, stomach.y_mm - 0.42 * b, 0.6 * a, 0.36 * b, -960, 0, 0.15)

    def _bones(self, along: float) -> Iterator[Shape]:
        cw, cd = self.cavity_mm
        y = 0.62 * cd
        disc = math.sin(2 * math.pi * 9 * along) > 0.75
        yield Shape(0, y, 24, 19, 110 if disc else 620, 20)
        if not disc:
            yield Shape(0, y, 21.5, 16.5, 210, 50)
        yield Shape(0, y + 24, 11, 9, 560, 20)
        yield Shape(0, y + 24, 8.5, 7, 25, 2)  # the canal
        yield Shape(0, y + 42, 4, 13, 480, 30)
        for side in (-1, 1):
            yield Shape(side * 24, y + 28, 15, 4, 420, 30, side * 0.35)
        if along > 0.62:
            yield Shape(0, -cd - 5, 20, 6, 420, 30)  # sternum
        # Ribs run obliquely, so every slice cuts them at another position.
        for number in range(14):
            turn = 2 * math.pi * ((number + self._ribs + 1.7 * along) / 14) + 0.1
            if abs(math.cos(turn)) < (0.30 if along > 0.35 else 0.62):
                continue
            slope = math.atan2((cd + 7) * math.cos(turn), -(cw + 7) * math.sin(turn))
            at = (cw + 7) * math.cos(turn), (cd + 7) * math.sin(turn)
            yield Shape(*at, 11, 4.5, 700, 20, slope)
            yield Shape(*at, 9, 2.7, 260, 40, slope)

    def _vessels(self, along: float) -> Iterator[Shape]:
        cw, cd = self.cavity_mm
        if along < 0.95:
            yield Shape(0.09 * cw, 0.36 * cd, 11.5, 11.5, 135, 2)  # aorta
            yield Shape(-0.12 * cw, 0.34 * cd, 13, 10.5, 120, 2)  # cava
        else:
            yield Shape(0.12 * cw, 0.36 * cd, 12, 12, 135, 2)
        lungs = [shape for name in ("lung, right", "lung, left") for shape in self._section(name, along)]
        liver = self._section("liver", along)
        for vessels, organs, hu in ((self._liver_vessels, liver, 115.0), (self._lung_vessels, lungs, 60.0)):
            for vessel in vessels:
                for organ in organs:
                    yield from vessel.section(along, organ, (cw, cd), hu)


@dataclass(frozen=True)
class _Vessel:
    """A thin, straight, tapering tube that starts near a root; positions are in fractions of the body."""

    start: tuple[float, float, float]
    step: tuple[float, float, float]
    radius_mm: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, root: tuple[float, float, float], spread: float, wide: float
    ) -> _Vessel:
        """Draw a vessel with a random start near a root and a random direction.

        Parameters
        ----------
        rng : Generator
        root : tuple of 3 floats
            Position in fractions of the body.
        spread : float
            Scatter of the start around the root.
        wide : float
            Scale of the radius, mm.

        Returns
        -------
        _Vessel
        """
        start = np.array(root) + rng.normal(0, 0.35, 3) * spread * np.array([1, 1, 0.4])
        step = rng.normal(0, 1, 3) * np.array([1.2, 1.2, 0.25])
        return cls(tuple(start), tuple(step), float(wide * (0.7 + rng.gamma(1.5, 0.6))))

    def section(self, along: float, organ: Shape, cavity_mm: tuple[float, float], hu: float) -> Iterator[Shape]:
        """Cross-section in a slice: an ellipse elongated along the vessel; none outside the organ.

        Parameters
        ----------
        along : float
            Position of the slice along the body.
        organ : Shape
            The organ that contains the vessel.
        cavity_mm : tuple of 2 floats
            Half width and half depth of the body cavity, mm.
        hu : float

        Yields
        ------
        Shape
        """
        rise = self.step[2] if abs(self.step[2]) > 0.02 else 0.02
        share = (along - self.start[2]) / rise
        if abs(share) > 0.5:
            return
        x, y = ((self.start[i] + share * self.step[i]) * cavity_mm[i] for i in (0, 1))
        if math.hypot((x - organ.x_mm) / organ.a_mm, (y - organ.y_mm) / organ.b_mm) > 0.85:
            return
        run = math.hypot(self.step[0] * cavity_mm[0], self.step[1] * cavity_mm[1])
        radius = self.radius_mm * (1 - abs(share))
        # The body length, about 240 mm, determines the angle between tube and slice.
        elongation = min(math.hypot(1, run / max(abs(rise) * 240, 1)), 6)
        turn = math.atan2(self.step[1] * cavity_mm[1], self.step[0] * cavity_mm[0])
        yield Shape(x, y, max(radius * elongation, 0.5), max(radius, 0.5), hu, 0, turn)


def paint(
    shapes: list[Shape], x_mm: NDArray[np.float64], y_mm: NDArray[np.float64], grain: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Paint shapes on a grid; later shapes cover earlier ones.

    Parameters
    ----------
    shapes : list of Shape
    x_mm : ndarray, shape (columns,)
        Rising positions of the columns, mm.
    y_mm : ndarray, shape (rows,)
        Rising positions of the rows, mm.
    grain : ndarray, shape (rows, columns)
        Fine structure of unit standard deviation.

    Returns
    -------
    ndarray, shape (rows, columns)
        HU.
    """
    hu = np.full((len(y_mm), len(x_mm)), AIR_HU)
    for shape in shapes:
        left, right = np.searchsorted(x_mm, [shape.x_mm - shape.max_radius_mm, shape.x_mm + shape.max_radius_mm])
        top, bottom = np.searchsorted(y_mm, [shape.y_mm - shape.max_radius_mm, shape.y_mm + shape.max_radius_mm])
        window = slice(top, bottom), slice(left, right)
        inside = shape.inside(x_mm[left:right], y_mm[top:bottom])
        hu[window][inside] = (shape.hu + shape.texture_hu * grain[window])[inside]
    return hu

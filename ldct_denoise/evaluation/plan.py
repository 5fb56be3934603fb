"""Settings of a measurement: windows, regions, contrasts and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.tables import Measurement
from ldct_denoise.intensity import WINDOWS, Window, unique_windows
from ldct_denoise.metrics.perceptual import METRICS
from ldct_denoise.regions.parse import disambiguate_names
from ldct_denoise.regions.regions import Body, Region, Tissue, WholeImage

DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])
DEFAULT_REGIONS: tuple[Region, ...] = (WholeImage(), Body())


@dataclass(frozen=True)
class MeasurementPlan:
    """Settings of :func:`~ldct_denoise.evaluation.evaluate.evaluate` and ``compare``.

    Windows, regions and contrasts that are given twice are measured once.

    Parameters
    ----------
    windows : sequence of Window
        PSNR, SSIM, errors and bias are measured in each.
    regions : sequence of Region
        Where to measure. Different regions of the same name, those of the contrasts included, are renamed: the
        later one gets a number.
    contrasts : sequence of (Region, Region)
        Pairs of regions whose contrast-to-noise ratio is measured.
    metrics : sequence of str
        Slower metrics of the whole image, in addition to the standard ones: ``ms_ssim``, ``vif``, ``gmsd``.
    noise : bool
        Also measure noise power spectra, flicker and the shift of each pair. Off for images that are not CT.
    register : bool
        Interpolate the reference where a pair is shifted by a part of a slice increment or pixel.
    notes : sequence of str
        Remarks that are reported with the numbers, such as the name of a published protocol.

    Raises
    ------
    ConfigError
        If two different windows have the same name, or a metric is unknown.
    """

    windows: Sequence[Window] = DEFAULT_WINDOWS
    regions: Sequence[Region] = DEFAULT_REGIONS
    contrasts: Sequence[tuple[Region, Region]] = ()
    metrics: Sequence[str] = ()
    noise: bool = True
    register: bool = False
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(f"metric {metric!r} is unknown; there are {', '.join(METRICS)}")
        # "image" and "body" have fixed meanings in every table, whether or not they are measured.
        reserved: list[Region] = [WholeImage(), Body()]
        sides = [region for pair in self.contrasts for region in pair]
        renamed = disambiguate_names([*reserved, *self.regions, *sides])[len(reserved) :]
        regions, sides = renamed[: len(self.regions)], renamed[len(self.regions) :]
        contrasts = zip(sides[::2], sides[1::2], strict=True)
        object.__setattr__(self, "windows", unique_windows(self.windows))
        object.__setattr__(self, "regions", tuple({region.name: region for region in regions}.values()))
        object.__setattr__(self, "contrasts", tuple({contrast_name(pair): pair for pair in contrasts}.values()))


#: Full range and abdomen window, whole image and body.
DEFAULT_PLAN = MeasurementPlan()


def contrast_name(pair: tuple[Region, Region]) -> str:
    """Entry of the region column for a contrast: ``first | second``."""
    return f"{pair[0].name} | {pair[1].name}"


def missing_regions(plan: MeasurementPlan, rows: Iterable[Measurement]) -> list[str]:
    """Notes on regions and contrasts that no measured slice holds.

    The usual cause is coordinates in another system (RAS instead of LPS).
    """
    measured = {row.region for row in rows}
    missing = [region for region in plan.regions if region.name not in measured]
    by_hu = [region.name for region in missing if isinstance(region, Body | Tissue)]
    placed = [region.name for region in missing if region.name not in by_hu]
    pairs = [name for name in map(contrast_name, plan.contrasts) if name not in measured]
    hint = "are the coordinates LPS mm (x to the left, y to the back)?"
    found = (
        (by_hu, "no measured slice holds HU of region {}"),
        (placed, f"no measured slice holds region {{}}; {hint}"),
        (pairs, f"no measured slice holds both regions, with noise in them, of cnr {{}}; {hint}"),
    )
    return [text.format(", ".join(names)) for names, text in found if names]


def missing_ssim(rows: Iterable[Measurement]) -> list[str]:
    """Note on slices that are too small for SSIM."""
    measured: dict[str, set[tuple[object, ...]]] = {"psnr": set(), "ssim": set()}
    for row in rows:
        if row.metric in measured:
            key = row.series, row.position_mm, row.model, row.window, row.region
            measured[row.metric].add(key)
    lacking = measured["psnr"] - measured["ssim"]
    if not lacking:
        return []
    slices = {key[:2] for key in lacking}
    return [f"{len(slices)} slices have no SSIM: they are smaller than its window"]

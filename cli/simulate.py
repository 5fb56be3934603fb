"""``ldct-denoise simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from . import options, terminal


@click.command(short_help="Simulate a lower dose from a normal-dose series.")
@click.argument("normal", type=options.EXISTING)
@click.option("--dose", type=float, required=True, help="Fraction of the dose of NORMAL, e.g. 0.25.")
@options.output
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--geometry",
    type=click.Choice(["parallel", "fan"]),
    default="parallel",
    show_default=True,
    help="Geometry of the rays.",
)
@click.option(
    "--source-isocenter-distance",
    type=click.FloatRange(100, 2000),
    default=595.0,
    show_default=True,
    metavar="MM",
    help="Distance of the X-ray source from the isocenter (fan geometry only).",
)
@click.option(
    "--noise-model", type=options.EXISTING, help="Noise model of the kernel (JSON).  [default: measured in NORMAL]"
)
@click.option(
    "--electronic-noise", type=click.FloatRange(0), default=None, metavar="MA",
    help="Tube current at which an unattenuated ray has as much electronic as quantum noise.",
)  # fmt: skip
@click.option(
    "--bow-tie", type=click.FloatRange(0, 1), default=None, help="Strength of the bow-tie filter; 0: none."
)
@click.option(
    "--tube-current-modulation",
    type=click.FloatRange(0, 1),
    default=None,
    help="Strength of the tube current modulation with the angle; 0: none.",
)
@click.option(
    "--slice-correlation",
    type=click.FloatRange(0, 0.9),
    default=None,
    help="Correlation of the noise of neighbouring slices.  [default: by slice spacing and thickness]",
)
@options.assume_hu
@options.output_format
@options.device
@options.overwrite
def command(
    normal: Path,
    dose: float,
    output: Path,
    seed: int,
    geometry: Literal["parallel", "fan"],
    source_isocenter_distance: float,
    noise_model: Path | None,
    electronic_noise: float | None,
    bow_tie: float | None,
    tube_current_modulation: float | None,
    slice_correlation: float | None,
    assume_hu: bool,
    device: str,
    **writing: Any,
) -> None:
    """Simulate a lower dose: add noise to NORMAL, a DICOM folder, file or tree, or a volume file.

    The sharpness of the anatomy does not change. Writes a derived DICOM series that is labelled as simulated, or
    a volume. OUTPUT-simulation.json lists the X-ray quanta of each series. Research use only.
    """
    from dataclasses import replace

    from ldct_denoise.distributed import choose_device
    from ldct_denoise.io.write_settings import WriteSettings
    from ldct_denoise.physics.noise import NoiseModel
    from ldct_denoise.physics.scanner import DEFAULT_SCANNER
    from ldct_denoise.physics.simulate_series import Simulation, simulate

    given = {
        "electronic_noise_ma": electronic_noise,
        "bow_tie": bow_tie,
        "modulation": tube_current_modulation,
        "slice_correlation": slice_correlation,
    }
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    scanner = replace(DEFAULT_SCANNER, geometry=geometry, source_to_centre_mm=source_isocenter_distance, **changed)
    model = NoiseModel.load(noise_model) if noise_model else None
    simulation = Simulation(dose, seed, scanner, model, assume_hu)
    with terminal.progress_bar("simulating") as progress:
        written = simulate(
            normal, output, simulation, WriteSettings(**writing),
            device=str(choose_device(device)), progress=progress, notify=terminal.say,
        )  # fmt: skip
    for path in written:
        click.echo(path)

"""Draw the pictures of docs/gallery.md: reports, a PDF page and the viewer, of a public chest series.

usage: python docs/figures/gallery.py RIDER_CHEST_FOLDER     (from the root of the repository; needs Chromium)
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import ldct_denoise
from ldct_denoise.evaluation.compare import compare_pairs
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.inference.series import derivation_of
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.models.trained import load_model
from ldct_denoise.report.apply import write_apply_report
from ldct_denoise.report.evaluation import series_names
from ldct_denoise.report.identity import Signature, evaluation_identity
from ldct_denoise.report.pdf import summary_figures
from ldct_denoise.report.write import write_comparison, write_evaluation
from ldct_denoise.view.server import ViewServer
from ldct_denoise.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.chromium import Chromium

FIGURES = Path(__file__).parent
#: Slices of the series, and the fraction of the dose that is simulated.
SLICES = slice(34, 46)
DOSE, MODELS = 0.25, ("lir-ct", "lir-ct-small", "bilateral")
PLAN = MeasurementPlan(windows=[WINDOWS["full"], WINDOWS["mediastinum"]])
SECOND_IMAGE = "#panels figure:nth-child(2)"
SIGNED = Signature("A. Reader", "Example Hospital")
#: Largest size of a picture, bytes; numbers of grey levels; difference of the channels of other colours.
MAX_BYTES, GREY_LEVELS, COLOURED = 150_000, (192, 128, 96, 64, 48, 32), 16


def main(folder: Path) -> None:
    """Simulate a quarter of the dose, denoise it, write every report and photograph it."""
    (series,) = ldct_denoise.read_series(folder)
    whole = Volume.of(series)
    shown = replace(whole.geometry, positions_mm=whole.geometry.positions_mm[SLICES])
    currents = replace(whole.metadata, tube_current_ma=whole.metadata.tube_current_ma[SLICES])
    normal = replace(whole, hu=whole.hu[SLICES], geometry=shown, metadata=currents)
    low = ldct_denoise.simulate_low_dose(normal, DOSE)
    assert isinstance(low, Volume)
    low_ma = tuple(DOSE * current for current in currents.tube_current_ma if current)
    low = replace(low, uid="low", metadata=replace(currents, tube_current_ma=low_ma))
    model, settings = load_model(MODELS[0]), ApplySettings()
    restored = np.stack([hu for _, hu in sorted(restore_slices(low, model, settings))])
    derivation = derivation_of(model, settings)
    output = replace(low.with_hu(restored), uid="output")
    output = replace(output, metadata=replace(low.metadata, derivation=derivation.text))
    facts = {"model": model.name, "model SHA-256": model.checksum, "strength": derivation.amount}
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        write_apply_report(low, output, made / "apply.html", facts, signature=SIGNED)
        measured = evaluate([output], [normal], [low], PLAN)
        write_evaluation(measured, made / "evaluate", signature=SIGNED)
        pair = Pair("1", normal.metadata.kernel, low, normal, tuple((i, i) for i in range(len(low))))
        compared = compare_pairs(
            [pair], [load_model(name) for name in MODELS], PLAN, include_training_patients=True
        )
        write_comparison(compared, made / "compare", signature=SIGNED)
        reports = [made / name for name in ("apply.html", "evaluate/report.html", "compare/report.html")]
        apply_page, evaluate_page, compare_page = (path.as_uri() for path in reports)
        photograph("report-apply", apply_page, SECOND_IMAGE, below=True)
        photograph("report-evaluate", evaluate_page, SECOND_IMAGE, below=True)
        photograph("report-charts", evaluate_page, ".charts", theme="dark")
        photograph("report-compare", compare_page, "#images")
        photograph("report-phone", evaluate_page, SECOND_IMAGE, below=True, width=390)
    identity = evaluation_identity(measured, "Image quality report", series_names(measured, False), SIGNED)
    page = FigureCanvasAgg(summary_figures(measured, identity)[0])
    page.figure.set_dpi(110)
    page.draw()
    save("report-pdf", Image.fromarray(np.asarray(page.buffer_rgba())).convert("RGB"))
    view("view", (low, output, normal), "dark", "side")
    view("view-light", (whole,), "light", "planes")


def photograph(
    name: str, address: str, last: str, *, below: bool = False, theme: str = "light", width: int = 1280
) -> None:
    """Save a report from its top to the element ``last``, with or without it; in dark, only that element."""
    with Chromium(width, 900) as browser:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(address)
        browser.wait("document.body.dataset.drawn")
        box = f"document.querySelector({last!r}).getBoundingClientRect()"
        top, bottom = browser.run(f"[{box}.top, {box}.bottom]")
        start, end = (top - 60, bottom + 20) if theme == "dark" else (0, bottom if below else top)
        clip = {"x": 0, "y": start, "width": width, "height": end - start, "scale": 900 / 1280}
        shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        save(name, Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))


def view(name: str, sources: tuple[Volume, ...], theme: str, layout: str) -> None:
    """Save the viewer."""
    titles = ("INPUT", "OUTPUT", "REFERENCE")[: len(sources)]
    with ViewServer(sources, titles) as server, Chromium(1440, 900) as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(server.url)
        browser.wait("document.body?.dataset.loadedMs")
        browser.run(f"document.querySelector('#layout [data-value={layout}]').click()")
        browser.run("new Promise((done) => setTimeout(done, 1500))")  # the last slices arrive
        shot = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        save(name, shot.resize((960, 600), Image.Resampling.LANCZOS))
        server.shutdown()


def save(name: str, picture: Image.Image) -> None:
    """Write a PNG with as many grey levels as fit into the size limit, and up to 64 other colours."""
    pixels = np.asarray(picture)
    coloured = pixels[np.ptp(pixels.astype(int), axis=2) > COLOURED]
    colours = []
    if len(coloured):
        found = Image.fromarray(coloured[None]).quantize(64)
        colours = np.reshape(found.getpalette(), (-1, 3)).tolist()
    for levels in GREY_LEVELS:
        greys = np.rint(np.linspace(0, 255, levels)).astype(int).repeat(3).reshape(-1, 3).tolist()
        palette = Image.new("P", (1, 1))
        palette.putpalette(np.ravel(greys + colours).tolist())
        buffer = io.BytesIO()
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) <= MAX_BYTES:
            break
    (FIGURES / f"{name}.png").write_bytes(buffer.getvalue())
    print(f"{name}.png: {picture.size}, {levels} grey levels, {len(buffer.getvalue())} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Review: input, output, reference
#
# View a denoised series side by side with its input and reference, measure a region of interest, and rate images in a
# blinded reading. Here a synthetic patient is scanned at normal and at quarter dose and denoised by a simple filter. For
# your own images, replace `low`, `normal` and `output` by series of `ldct_denoise.read_series(folder)`.

# %%
import tempfile
from pathlib import Path

import ldct_denoise
from ldct_denoise.phantoms.patients import Patient
from ldct_denoise.phantoms.scan import with_noise
from ldct_denoise.regions.regions import Sphere
from ldct_denoise.report.interactive import BlindedReading, review, roi_numbers

truth = Patient(seed=3, slices=8, size=256).truth()
normal, low = with_noise(truth, 1.0, seed=1), with_noise(truth, 0.25, seed=2)
output = ldct_denoise.denoise(low, model="bilateral")
sources = {"input": low, "output": output, "reference": normal}

# %% [markdown]
# The mouse wheel scrolls all images together, Ctrl + wheel zooms, dragging moves, Shift + dragging changes level and
# width. Tick *draw a circle* and drag from its centre to read mean ± standard deviation in HU in every image. Regions
# given in code are outlined, here a sphere in the liver (patient coordinates, LPS mm).

# %%
liver = Sphere("liver", (-104.0, -5.5, 7.5), 4.4)
review(sources, [liver])

# %% [markdown]
# Statistics of the sphere over all its slices. A good denoiser lowers the standard deviation and preserves the mean:

# %%
for name, numbers in roi_numbers(sources, liver).items():
    print(f"{name:10} {numbers['mean_hu']:6.1f} ± {numbers['std_hu']:.1f} HU in {numbers['pixels']:.0f} pixels")

# %% [markdown]
# Blinded reading: input and output side by side as A and B, in a random order for every slice. Press a button to rate;
# *export* saves the ratings. The key is not in the page. `reading.write_page(path)` writes the page for a reader
# elsewhere.

# %%
reading = BlindedReading(low, output, ("input", "output"), indices=range(len(low)), seed=7)
reading.viewer()

# %% [markdown]
# Import the exported ratings and unblind them. (Here two lines replace a reader's file.)

# %%
exported = Path(tempfile.mkdtemp()) / "ratings.csv"
exported.write_text("reading,choice\n0,A\n1,B\n")
reading.read_csv(exported)
reading.write_csv(exported.with_name("ratings-with-key.csv"))
for row in reading.table():
    print(row)

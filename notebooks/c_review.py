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
# Look at a denoised series beside its input and, where there is one, its reference; read a region's numbers; and read
# blinded: which of two images is better? Here a synthetic patient is scanned at normal and at quarter dose and denoised
# by a simple filter. For your own, replace `low`, `normal` and `output` by series of
# `ldct_denoise.io.find.find_images(folder).series`.

# %%
import tempfile
from pathlib import Path

import numpy as np

from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.models.trained import load_model
from ldct_denoise.phantoms.patients import Patient
from ldct_denoise.phantoms.scan import with_noise
from ldct_denoise.regions.regions import Sphere
from ldct_denoise.report.interactive import BlindedReading, review, roi_numbers

truth = Patient(seed=3, slices=8, size=256).truth()
normal, low = with_noise(truth, 1.0, seed=1), with_noise(truth, 0.25, seed=2)
output = low.with_hu(np.stack([hu for _, hu in restore_slices(low, load_model("bilateral"))]))
sources = {"input": low, "output": output, "reference": normal}

# %% [markdown]
# The wheel scrolls all images together, Ctrl + wheel zooms them, dragging moves them, Shift + dragging changes level and
# width. Tick *draw a circle* and drag from its middle: mean ± standard deviation in every image, on real HU.
# A region given in code is outlined too, here a sphere in the liver (patient coordinates, LPS mm).

# %%
liver = Sphere("liver", (-104.0, -5.5, 7.5), 4.4)
review(sources, [liver])

# %% [markdown]
# The same sphere's numbers over all its slices. A good denoiser lowers the standard deviation and leaves the mean:

# %%
for name, numbers in roi_numbers(sources, liver).items():
    print(f"{name:10} {numbers['mean_hu']:6.1f} ± {numbers['std_hu']:.1f} HU in {numbers['pixels']:.0f} pixels")

# %% [markdown]
# Blinded reading: input and output side by side as A and B, in an order that chance decides anew for every slice. Press
# a button; *export* saves the ratings. The key is not in the page; `reading.write_page(path)` writes it for a reader
# elsewhere.

# %%
reading = BlindedReading(low, output, ("input", "output"), indices=range(len(low)), seed=7)
reading.viewer()

# %% [markdown]
# The exported ratings are read back and the key is opened. (Here two lines stand in for a reader's file.)

# %%
exported = Path(tempfile.mkdtemp()) / "ratings.csv"
exported.write_text("reading,choice\n0,A\n1,B\n")
reading.read_csv(exported)
reading.write_csv(exported.with_name("ratings-with-key.csv"))
for row in reading.table():
    print(row)

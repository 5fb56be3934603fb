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
# Scroll with level and width, read a region's numbers, and read blinded: which of two images is better? The ratings
# are exported with the key.

# %%
import tempfile
from pathlib import Path

import numpy as np

from ldct_denoise.apply import restore_slices
from ldct_denoise.checkpoint import load_model
from ldct_denoise.physics.phantom import Patient, with_noise
from ldct_denoise.regions import Sphere
from ldct_denoise.report.interactive import BlindedReading, review, roi_numbers

truth = Patient(seed=3, slices=4, size=128).truth()
normal, low = with_noise(truth, 1.0, seed=1), with_noise(truth, 0.25, seed=2)
model = load_model("bilateral")
output = low.with_hu(np.stack([hu for _, hu in restore_slices(low, model)]))
sources = {"input": low, "output": output, "reference": normal}

# %% [markdown]
# A ball in the liver, in patient coordinates (LPS mm):

# %%
liver = Sphere("liver", (-66.0, -8.0, 6.0), 15.0)
review(sources, "abdomen", liver)

# %%
for name, numbers in roi_numbers(sources, liver).items():
    print(f"{name:10} {numbers['mean_hu']:6.1f} ± {numbers['std_hu']:.1f} HU in {numbers['pixels']:.0f} pixels")

# %% [markdown]
# Blinded reading: A and B change places by chance.

# %%
reading = BlindedReading(low, output, ("input", "output"), indices=range(len(low)), seed=7)
reading.widget()

# %%
reading.rate(0, "A")  # in a live notebook the buttons do this
reading.write_csv(Path(tempfile.mkdtemp()) / "ratings.csv")
reading.table()

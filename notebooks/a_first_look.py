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
# # A first look at a series and its pools
#
# What is in a folder, which series are low and which are normal dose, and how each was told. Replace `root` by a
# folder of your own; without one, two synthetic patients are made.

# %%
import tempfile
from pathlib import Path

from ldct_denoise.io.find import find_images
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.phantoms.patients import write_patients
from ldct_denoise.report.interactive import review

root = Path(tempfile.mkdtemp()) / "patients"
write_patients(root, patients=2, slices=4, size=256);  # two scans of each: normal and quarter dose

# %% [markdown]
# Every series, its dose and the source of the dose label. `unknown` series (here: the truth and the lesion labels
# that come with synthetic patients) go into no pool.

# %%
inventory = find_images(root)
labelled = label_series(inventory.series, root)
for item in labelled:
    rows, columns = item.series.geometry.shape[1:]
    print(f"{item.patient}  {item.dose:8}  {len(item.series):3} slices of {rows}×{columns}  dose from {item.dose_source}")

# %% [markdown]
# Files that were skipped, and why:

# %%
for item in inventory.skipped:
    print(item.path.name, "-", item.reason)
print(len(inventory.skipped), "files skipped")

# %% [markdown]
# The pairs, for measuring only: training never sees them.

# %%
pairs = find_pairs(labelled)
for pair in pairs:
    print(pair.patient, pair.kernel, len(pair.indices), "slices at the same place")

# %% [markdown]
# Scroll both doses together with the wheel; choose a window, or drag with the shift key; tick *draw a circle* and drag
# from its middle to read mean and standard deviation in both.

# %%
review({"low dose": pairs[0].low, "normal dose": pairs[0].normal})

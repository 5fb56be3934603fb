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
# # A first look at a folder of series
#
# List the series of a folder, their dose labels, and the pairs of low and normal dose. Replace `root` by a folder of
# your own; here two synthetic patients are created.

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
# Every series, its dose and the source of the dose label. Series with an `unknown` dose (here the truth and the lesion
# labels of the synthetic patients) are not used for training.

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
# Pairs of series with the same slice positions. They are used for evaluation only, not for unpaired training.

# %%
pairs = find_pairs(labelled)
for pair in pairs:
    print(pair.patient, pair.kernel, len(pair.indices), "paired slices")

# %% [markdown]
# Scroll both series with the mouse wheel. Choose a window, or drag with the shift key. Tick *draw a circle* and drag
# from its centre to read mean and standard deviation in both images.

# %%
review({"low dose": pairs[0].low, "normal dose": pairs[0].normal})

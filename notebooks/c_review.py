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
from ldct_denoise.evaluation.reader_study import ReaderStudy
from ldct_denoise.report.blinded_reading import BlindedReading
from ldct_denoise.report.interactive import review, roi_numbers

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
# Blinded reading: input and output as A and B, pairs and sides in random order. Type a name, rate by the keys 1 to 5, and
# export the ratings. The key is not in the page. `write_page(page, key)` writes both for readers elsewhere.

# %%
reading = BlindedReading([(low, output)], ("input", "output"), slices_per_case=4)
reading.viewer()

# %% [markdown]
# Read the exported ratings with the key. (Here two lines replace the file of a reader.)

# %%
folder = Path(tempfile.mkdtemp())
reading.write_page(folder / "reading.html", key=folder / "reading-key.json")
header = "session,reader,reading,noise,texture,sharpness,artefacts,confidence,preference"
(folder / "ratings.csv").write_text(f"{header}\n{reading.key.session},Reader 1,1,2,0,-1,0,1,1\n")
study = ReaderStudy.read(folder / "reading-key.json", [folder / "ratings.csv"])
print("\n".join(study.lines()))

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
# # Compare methods
#
# Measure several denoisers on the same slices, with paired statistics. The command line does the same:
# `ldct-denoise compare --dicom-root … --model lir-ct-small --model bilateral --output …`

# %%
import tempfile
from pathlib import Path

import ldct_denoise
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.phantoms.patients import write_patients
from ldct_denoise.report.interactive import slice_figure

work = Path(tempfile.mkdtemp())
write_patients(work / "patients", patients=2, slices=3, size=256)
result = ldct_denoise.compare(
    work / "patients", ["lir-ct-small", "bilateral"], windows=["abdomen"], output=work / "comparison"
)

# %%
print("\n".join(result.lines()))

# %%
for entry in result.extra["paired"]:
    if entry["metric"] == "rmse" and entry["region"] == "body":
        low, high = entry["difference_low"], entry["difference_high"]
        interval = "no interval: too few patients" if low is None else f"95 % {low:+.2f} to {high:+.2f}"
        print(f"{entry['model']} − {entry['against']}: {entry['difference_mean']:+.2f} HU, {interval}")

# %%
case = result.cases[0]
sample = case.sample(case.indices[0])
slice_figure({**sample.images, "reference": sample.reference}, WINDOWS["abdomen"])

# %%
print("open in a browser:", work / "comparison" / "report.html")

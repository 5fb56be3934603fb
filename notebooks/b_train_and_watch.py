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
# # Train and monitor
#
# A short unpaired training on synthetic patients: the messages at the start, the losses by name, the results of each
# validation without pairs, and a slice of a patient who is in neither pool. A real training is the same call with more
# patients and iterations; `tensorboard --logdir RUN` shows its progress.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.models.trained import load_model
from ldct_denoise.config import load_config
from ldct_denoise.data.pools import pools_from_root
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.find import find_images
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.phantoms.patients import write_patients
from ldct_denoise.report.interactive import slice_figure
from ldct_denoise.training.loop import train

work = Path(tempfile.mkdtemp())
write_patients(work / "patients", patients=3, slices=4, size=256)
pairs = find_pairs(label_series(find_images(work / "patients").series, work / "patients"))
pair = pairs[-1]
changes = [
    "training.iterations=120",
    "training.validate_every=60",
    "settings.base_channels=8",
    f"data.test_patients=[{pair.patient}]",
]
config = load_config("lir-quick", changes)

# %%
history = []
model_file = train(
    config, pools_from_root(work / "patients", config.data), work / "run", report=lambda p: history.append(p)
)
print(*(f"step {p.step}: {p.message}" for p in history if p.message), sep="\n")

# %% [markdown]
# The losses. `lir-quick` trains the restoration path in every step and the other losses of the paper in every fourth step;
# with `lir-paper` all losses are those of the paper.

# %%
figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
for name in sorted({name for progress in history for name in progress.losses}):
    points = [(p.step, p.losses[name]) for p in history if name in p.losses]
    axis.plot(*zip(*points, strict=True), label=name)
axis.set(xlabel="step", ylabel="loss", yscale="log")
axis.legend(fontsize=7, ncols=2)
plt.show()

# %% [markdown]
# A slice of the held-out patient after these few steps:

# %%
low_index, normal_index = pair.indices[len(pair.indices) // 2]
output = dict(restore_slices(pair.low, load_model(model_file)))[low_index]
images = {"quarter dose": pair.low.read_hu(low_index), "output": output, "normal dose": pair.normal.read_hu(normal_index)}
slice_figure(images, WINDOWS["abdomen"])

# %% [markdown]
# Files of the run:

# %%
print(*sorted(path.name for path in (work / "run").iterdir()), sep="\n")

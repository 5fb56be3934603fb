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
# # Train, and watch
#
# A short unpaired training on synthetic patients: the losses by name, step by step. A real training is the same call
# with more patients and iterations; `tensorboard --logdir RUN` shows it live.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from ldct_denoise.config import load_config
from ldct_denoise.data.pools import pools_from_root
from ldct_denoise.physics.phantom import make_pool
from ldct_denoise.training import train

work = Path(tempfile.mkdtemp())
make_pool(work / "patients", patients=2, slices=3, size=256)
config = load_config("lir-ct", ["training.iterations=6", "training.validate_every=6", "settings.width=8"])

# %%
history = []
train(config, pools_from_root(work / "patients", config.data), work / "run", report=lambda p: history.append(p))

# %%
figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
for name in sorted({name for progress in history for name in progress.losses}):
    points = [(p.step, p.losses[name]) for p in history if name in p.losses]
    axis.plot(*zip(*points, strict=True), label=name)
axis.set(xlabel="step", ylabel="loss", yscale="symlog")
if axis.lines:
    axis.legend(fontsize=7, ncols=2)
plt.show()

# %% [markdown]
# What the run left:

# %%
print(*sorted(path.name for path in (work / "run").iterdir()), sep="\n")

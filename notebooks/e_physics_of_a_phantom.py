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
# # Physics of a phantom
#
# Noise power spectrum, resolution at several contrasts, and detectability, before and after a denoiser that is not
# linear: a Gaussian-smoothed noise and a disc, so that the truth is known. Definitions: `docs/measurements.md`.

# %%
import numpy as np
import matplotlib.pyplot as plt
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from ldct_denoise.metrics.detectability import hotelling_detectability, laguerre_gauss_channels
from ldct_denoise.metrics.noise import noise_power_spectrum, noise_reduction_profile
from ldct_denoise.metrics.sharpness import ttf_of_disk

SPACING, SIZE = (0.7, 0.7), 64
rng = np.random.default_rng(0)


def noise(count, size=SIZE):
    field = ndimage.gaussian_filter(rng.normal(0, 1, (count, size, size)), (0, 0.8, 0.8))
    return 20 * field / field.std()


def denoise(stack):
    return np.stack([denoise_tv_chambolle(image, weight=15) for image in stack])


# %% [markdown]
# Noise: which frequencies does it remove?

# %%
flat = noise(40)
before, after = (noise_power_spectrum(stack, SPACING).radial() for stack in (flat, denoise(flat)))
profile = noise_reduction_profile(before, after)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(before.frequency, before.power, label="before")
left.plot(after.frequency, after.power, label="after")
left.set(xlabel="1/mm", ylabel="NPS, HU²·mm²")
left.legend()
right.plot(profile.frequency, profile.power)
right.set(xlabel="1/mm", ylabel="noise reduction, dB")
plt.show()

# %% [markdown]
# Resolution depends on contrast: low-contrast edges are blurred more.

# %%
rows, columns = np.mgrid[:128, :128] - 63.5
disc = ndimage.gaussian_filter((np.hypot(rows, columns) * 0.7 < 20).astype(float), 0.8)
for contrast_hu in (40, 120, 400):
    images = contrast_hu * disc + noise(12, 128)
    for name, stack in (("before", images), ("after", denoise(images))):
        f50 = ttf_of_disk(stack.mean(axis=0), (63.5, 63.5), 20.0, SPACING).frequency_at(0.5)
        print(f"{contrast_hu:4} HU {name:7} f50 = {f50:.2f} /mm")

# %% [markdown]
# Detectability of a low-contrast lesion: less noise need not mean easier to see.

# %%
axis = np.arange(33) - 16
lesion = 10 * np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 3.0**2))
absent, present = noise(80, 33), noise(80, 33) + lesion
channels = laguerre_gauss_channels(33, np.sqrt(2 * np.pi) * 3.0, 5)
for name, first, second in (("before", present, absent), ("after", denoise(present), denoise(absent))):
    found = hotelling_detectability(first, second, channels)
    print(f"{name:7} d' = {found.d_prime:.2f} (95 % {found.low:.2f} to {found.high:.2f})")

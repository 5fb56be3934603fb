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
# # Image quality on a phantom
#
# Effect of a denoiser on noise, resolution, HU and detectability, measured on a simulated phantom with known truth: a disk
# of 50 HU with four rods, scanned repeatedly at several doses. `ldct-denoise image-quality --model NAME --output DIR`
# writes the same as a report. For scans of your own phantom, give its rods to `ldct-denoise evaluate --insert`.
# Definitions: `docs/reference/measurements.md`.

# %%
import matplotlib.pyplot as plt

from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.models.trained import load_model
from ldct_denoise.metrics.noise import noise_reduction_profile
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.evaluation.image_quality import (
    OBSERVERS,
    ImageQualitySettings,
    measure_image_quality,
    slice_restorer,
)
from ldct_denoise.report.image_quality import observer_sentence

model = load_model("tv")  # a shipped model, a run folder, a .safetensors file, or a method without training
study = measure_image_quality(slice_restorer(model, ApplySettings()), ImageQualitySettings(dose=0.25, realisations=6))
before, after = study.unprocessed[0.25], study.denoised

# %% [markdown]
# One slice of the rods:

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axis, (name, hu) in zip(axes, study.example.items(), strict=True):
    axis.imshow(hu, cmap="gray", vmin=-160, vmax=240)
    axis.set_title(name)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# **Noise.** Which frequencies are removed? Noise with only low frequencies looks blotchy, however small its standard
# deviation is.

# %%
profile = noise_reduction_profile(before.spectrum, after.spectrum)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.plot(before.spectrum.frequency, before.spectrum.power, label="quarter dose")
left.plot(after.spectrum.frequency, after.spectrum.power, label="denoised")
left.plot(study.unprocessed[1.0].spectrum.frequency, study.unprocessed[1.0].spectrum.power, label="normal dose")
left.set(xlabel="frequency, 1/mm", ylabel="NPS, HU²·mm²", title="noise power spectrum")
left.legend()
right.plot(profile.frequency, profile.power)
right.set(xlabel="frequency, 1/mm", ylabel="dB", title="noise reduction profile")
plt.show()
for name, image in (("quarter dose", before), ("denoised", after)):
    print(f"{name:13} {image.noise.variance_hu2**0.5:5.1f} HU, mean frequency {mean_noise_frequency(image.noise):.2f} /mm")

# %% [markdown]
# **Resolution** depends on contrast: a denoiser keeps strong edges and blurs weak ones, so one curve is not enough.

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
axis.plot(before.transfer[400.0].frequency, before.transfer[400.0].value, "k--", label="quarter dose, +400 HU")
for contrast_hu in sorted(after.transfer, key=abs):
    curve = after.transfer[contrast_hu]
    axis.plot(curve.frequency, curve.value, label=f"denoised, {contrast_hu:+g} HU (f50 {curve.frequency_at(0.5):.2f})")
axis.set(xlim=(0, 0.65), xlabel="frequency, 1/mm", ylabel="TTF", title="task transfer function")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# **HU**: do the rods keep their HU?

# %%
for contrast_hu, measured in after.rod_hu.items():
    print(f"nominal {50 + contrast_hu:6.1f} HU, measured {measured:7.2f} HU")
print(f"slope {after.linearity.slope:.4f}, uniform part {after.body_hu - before.body_hu:+.2f} HU against the input")

# %% [markdown]
# **Detectability** of faint lesions. Less noise does not necessarily make a lesion easier to see: a channelised Hotelling
# observer (CHO) can undo a blur and gains little; the observer with a human eye filter (NPWE) is disturbed by fine noise
# and gains more. The observers score the images themselves, with and without the lesion. The equivalent dose is the dose
# at which unprocessed images reach the same d′.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
lesion = study.settings.lesions[1]
for axis, observer in zip(axes, OBSERVERS, strict=True):
    doses = sorted(study.unprocessed)
    curve = [study.unprocessed[dose].detectability[lesion, observer].d_prime for dose in doses]
    axis.plot([100 * dose for dose in doses], curve, "o-", label="unprocessed")
    found = after.detectability[lesion, observer]
    spread = [[found.d_prime - found.low], [found.high - found.d_prime]]
    axis.errorbar([25], [found.d_prime], spread, fmt="s", capsize=4, label="denoised")
    axis.set(xlabel="dose, % of normal", ylabel="d′", title=f"{observer}: {lesion.name}")
    axis.legend()
plt.show()
for observer in OBSERVERS:
    print(observer_sentence(study, observer))

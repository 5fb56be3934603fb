"""Where to measure: whole image, body, tissues, spheres, label volumes and contours.

The body mask and the HU ranges of tissues are defined here once for the whole package.
"""

from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import NOISE_TISSUE_HU, TISSUES, TissueRange, noise_tissue_mask, tissue_masks

__all__ = ["NOISE_TISSUE_HU", "TISSUES", "TissueRange", "body_mask", "noise_tissue_mask", "tissue_masks"]

"""Low-dose CT denoising: read CT series, train denoisers on unpaired pools, write derived series, measure them.

Research use only: not a medical device.
"""

__version__ = "0.1.0"

"""Evaluation protocols of published papers, so that numbers can be compared with theirs."""

from __future__ import annotations

from dataclasses import dataclass

from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Window
from ldct_denoise.metrics.ssim import SsimForm


@dataclass(frozen=True)
class Protocol:
    """Windows and SSIM variant of a published evaluation.

    Parameters
    ----------
    name : str
    windows : tuple of Window
        Their names begin with the protocol's name, so that every number carries it.
    ssim : SsimForm
        Variant of SSIM.
    note : str
        Source and definition, one line for the report.
    """

    name: str
    windows: tuple[Window, ...]
    ssim: SsimForm
    note: str


_PYTORCH_SSIM = "SSIM Gaussian 11×11, σ 1.5, zeros beyond the border"

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "ldct-benchmark",
            (  # DICOM's window formula (PS3.3 C.11.2.1.2.1) ends one HU below level + width/2
                Window.between("ldct-benchmark chest", -1350, 149),
                Window.between("ldct-benchmark abdomen", -150, 249),
                Window.between("ldct-benchmark head", 0, 79),
            ),
            SsimForm(uniform=True, from_zero=True),
            "protocol ldct-benchmark (Eulig et al. 2024, evaluate/utils.py): windows −600/1500, 50/400, 40/80 by "
            "DICOM's formula, scaled to 0…1; SSIM uniform 7×7 with sample covariance",
        ),
        Protocol(
            "red-cnn",
            (Window.between("red-cnn", -160, 240),),
            SsimForm(border="zeros"),
            f"protocol red-cnn (SSinyu/RED-CNN measure.py): HU clipped to [−160, 240]; {_PYTORCH_SSIM}, on the HU",
        ),
        Protocol(
            "du-gan",
            (Window.between("du-gan", -300, 300),),
            SsimForm(border="reflect", from_zero=True, clamped=True),
            "protocol du-gan (Huang et al. 2021, utils/metrics.py): [−300, 300] scaled to 0…1; SSIM Gaussian "
            "11×11, σ 1.5, reflected at the border, values below 0 set to 0",
        ),
        Protocol(
            "corediff",
            (Window.between("corediff", -1000, 1000),),
            SsimForm(border="zeros", from_zero=True),
            f"protocol corediff (Gao et al. 2023, measure.py): [−1000, 1000] scaled to 0…255; {_PYTORCH_SSIM}",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol {name!r} is unknown; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def ssim_form(window: Window) -> SsimForm:
    """SSIM variant of a window: the protocol's for a protocol's window, otherwise the default."""
    for protocol in PROTOCOLS.values():
        if window in protocol.windows:
            return protocol.ssim
    return SsimForm()

"""Make the sender for each kind of destination."""

from __future__ import annotations

from ldct_denoise.node.dimse import DimseSender
from ldct_denoise.node.parallel import ParallelSender
from ldct_denoise.node.sending import Sender
from ldct_denoise.node.settings import DimseDestination, StowDestination
from ldct_denoise.node.stow import StowSender


def make_sender(destination: DimseDestination | StowDestination, ae_title: str) -> Sender:
    """Create the sender for a destination.

    Parameters
    ----------
    destination : DimseDestination or StowDestination
    ae_title : str
        Own AE title, unless the destination names another.

    Returns
    -------
    Sender

    Raises
    ------
    ConfigError
        If its TLS or authorization files cannot be used.
    """
    senders = [_single(destination, ae_title) for _ in range(destination.associations)]
    return senders[0] if len(senders) == 1 else ParallelSender(senders)


def _single(destination: DimseDestination | StowDestination, ae_title: str) -> Sender:
    if isinstance(destination, StowDestination):
        return StowSender(destination)
    return DimseSender(destination, ae_title)

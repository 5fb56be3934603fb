"""Store measured figures in the card of a model file (docs/reference/models.md).

python docs/figures/model_card.py MODEL.safetensors "noise texture=mean frequency −10 % …" …

The titles are those of ``ldct-denoise models NAME``. Weights, settings and checksum stay.
"""

from __future__ import annotations

import json
import sys

from safetensors import safe_open
from safetensors.torch import save_file


def main(path: str, *lines: str) -> None:
    """Add ``TITLE=TEXT`` lines to the card's ``figures``."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    card = json.loads(metadata["card"])
    card["figures"] = card.get("figures", {}) | dict(line.split("=", 1) for line in lines)
    save_file(tensors, path, metadata | {"card": json.dumps(card)})


if __name__ == "__main__":
    main(*sys.argv[1:])

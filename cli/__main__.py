"""``python -m ldct_denoise.cli``: the same command line, for torchrun and for debuggers."""

from .main import main

main()

"""``python -m ldct_denoise``: the same command line as ``ldct-denoise``."""

import importlib

# By name: `cli/` lies beside the package and is mapped into it on installation, which type checkers cannot follow.
importlib.import_module("ldct_denoise.cli.main").main()

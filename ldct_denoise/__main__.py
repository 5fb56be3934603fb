"""``python -m ldct_denoise``: the same command line as ``ldct-denoise``."""

import importlib

# By name: type checkers cannot follow the mapping of `cli/` into the package.
importlib.import_module("ldct_denoise.cli.main").main()

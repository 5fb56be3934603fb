"""The denoisers; the files of this folder are the registry.

``lir.py`` is the method ``lir`` and ``anscombe_bm3d.py`` is ``anscombe-bm3d``: each holds one class named
``METHOD``. Files that start with an underscore, and ``base.py``, are not methods.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from ldct_denoise.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ldct_denoise.intensity import Scale
    from ldct_denoise.methods.base import Method


def names() -> tuple[str, ...]:
    """All method names, sorted; imports none of them."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in files if name != "base" and not name.startswith("_")))


def find(name: str) -> type[Method[Any]]:
    """The method's class.

    Raises
    ------
    ModelError
        If there is no such method.
    """
    if name not in names():
        raise ModelError(f"no method is called {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    method: type[Method[Any]] = module.METHOD
    return method


def build(name: str, settings: Mapping[str, object], scale: Scale) -> Method[Any]:
    """A method with these settings (fresh weights).

    Raises
    ------
    ModelError, ConfigError
        If there is no such method, or a setting is unknown or impossible.
    """
    from pydantic import ValidationError

    from ldct_denoise.config import known_keys

    cls = find(name)
    try:
        validated = cls.Settings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ["settings", *map(str, first["loc"])]
        hint = f"{'.'.join(where[:-1])} of {name}"
        if first["type"] == "extra_forbidden":
            hint += f": {', '.join(known_keys(cls.Settings, first['loc']))}"
        raise ConfigError(f"{'.'.join(where)}: {first['msg'].removeprefix('Value error, ')} ({hint})") from None
    return cls(validated, scale)

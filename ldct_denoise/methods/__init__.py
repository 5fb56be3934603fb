"""The denoising methods. Every file of this folder is one, found by its name; there is no list to edit.

``lir.py`` is the method ``lir`` and ``anscombe_bm3d.py`` is ``anscombe-bm3d``: each has one class, named by
``METHOD``. ``base.py`` and files that begin with an underscore are not methods.

Methods of other packages are found by the entry point ``ldct_denoise.methods``, those in files of one's own by
:func:`register` or the environment variable ``LDCT_DENOISE_METHODS``. A trained model never brings code with it:
its file only names the method.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldct_denoise.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from ldct_denoise.intensity import Scale
    from ldct_denoise.methods.base import Method


#: Group of the entry points of other packages; each names the module of a method.
ENTRY_POINTS = "ldct_denoise.methods"
#: Environment variable with files and folders of methods, separated as in PATH. Child processes inherit it.
FOLDERS_VARIABLE = "LDCT_DENOISE_METHODS"


class Supervision(StrEnum):
    """Training data that a method requires."""

    NONE = "none"  # no training: each image is denoised on its own
    SELF = "self"  # low-dose images only
    NOISE2NOISE = "noise2noise"  # two noise realisations of the same anatomy
    UNPAIRED = "unpaired"  # a low-dose and a normal-dose pool, no pairs
    SUPERVISED = "supervised"  # low-dose images, each with its normal-dose image


@dataclass(frozen=True)
class MethodInfo:
    """Catalogue entry of a method.

    Parameters
    ----------
    name : str
        Name on the command line and in configurations.
    title : str
        The method in a few words.
    supervision : Supervision
        Training data that it requires.
    reference : str
        Publication that describes it.
    """

    name: str
    title: str
    supervision: Supervision
    reference: str


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing them."""
    return tuple(sorted({*_own(), *_installed(), *_outside()}))


def register(file: Path) -> str:
    """Add a method of one's own for this process and those that it starts.

    Parameters
    ----------
    file : Path
        A Python file (docs/tutorials/add-a-method.md); its name is the name of the method.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ModelError
        If it is no Python file, or a shipped method has its name.
    """
    name = _name(file.stem)
    if not file.is_file() or file.suffix != ".py" or not file.stem.isidentifier():
        raise ModelError(f"{file}: not a method; give a Python file with a name as my_method.py")
    if name in _own():
        raise ModelError(f"{file}: a shipped method is called {name!r}; rename the file")
    known = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    others = [path for path in known if path and Path(path).stem != file.stem]
    os.environ[FOLDERS_VARIABLE] = os.pathsep.join([str(file.resolve()), *others])
    return name


def _name(stem: str) -> str:
    return stem.replace("_", "-")


def _is_method(stem: str) -> bool:
    return stem != "base" and not stem.startswith("_")


def _own() -> dict[str, str]:
    """Modules of this package by the names of their methods."""
    stems = (module.name for module in pkgutil.iter_modules(__path__))
    return {_name(stem): f"{__name__}.{stem}" for stem in stems if _is_method(stem)}


@cache
def _installed() -> dict[str, str]:
    """Modules of other packages by the names of their methods."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.module for entry in found if entry.name not in _own()}


def _outside() -> dict[str, Path]:
    """Files of the user's own methods by name; a shipped method cannot be replaced."""
    files: list[Path] = []
    for text in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep):
        path = Path(text)
        if text and path.is_dir():
            files += sorted(path.glob("*.py"))
        elif text and path.suffix == ".py" and path.is_file():
            files.append(path)
    shipped = _own()
    found: dict[str, Path] = {}
    for file in files:
        if _is_method(file.stem) and _name(file.stem) not in shipped:
            found.setdefault(_name(file.stem), file)
    return found


def describe(name: str) -> MethodInfo:
    """Return the catalogue entry of a method, from the docstring of its file.

    The title is the first line. The paragraphs ``Supervision:`` and ``Reference:`` follow. The file is read and
    not imported, since importing it imports torch, which takes seconds.

    Raises
    ------
    ModelError
        If there is no such method, or its docstring lacks a paragraph.
    """
    path = _file(name)
    _, _, rest = path.read_text(encoding="utf-8").partition('"""')
    docstring = rest.partition('"""')[0]
    fields = {
        key: " ".join(text.split()).removesuffix(".")
        for key, text in re.findall(r"^(Supervision|Reference): (.+?)(?=\n\w+: |\n\n|\Z)", docstring, re.M | re.S)
    }
    try:
        supervision, reference = Supervision(fields["Supervision"]), fields["Reference"]
    except (KeyError, ValueError):
        raise ModelError(
            f"{path}: the docstring needs 'Supervision: {' | '.join(Supervision)}' and 'Reference: …'"
        ) from None
    title = (docstring.strip().splitlines() or [""])[0].removesuffix(".")
    return MethodInfo(name, title, supervision, reference)


def find(name: str) -> type[Method[Any]]:
    """Import a method and return its class.

    Raises
    ------
    ModelError
        If there is no such method, or its file cannot be imported or has no ``METHOD``.
    """
    shipped = _own().get(name)
    module = importlib.import_module(shipped) if shipped else _import_outside(name)
    method: type[Method[Any]] | None = getattr(module, "METHOD", None)
    if method is None:
        raise ModelError(f"{_file(name)}: has no METHOD; end the file with METHOD = YourClass")
    return method


def _file(name: str) -> Path:
    """File of a method."""
    if name in (outside := _outside()):
        return outside[name]
    module = _own().get(name) or _installed().get(name)
    if module is None:
        raise ModelError(
            f"no method is called {name!r}{did_you_mean(name, names())} (there are {', '.join(names())}). A "
            "method of your own needs --method FILE.py, or a folder in the environment variable "
            f"{FOLDERS_VARIABLE}"
        )
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(f"method {name!r}: its module {module} cannot be found")
    return Path(spec.origin)


def _import_outside(name: str) -> ModuleType:
    """Import a method of another package, or a file of the user's own."""
    file = _file(name)
    try:
        if name not in _outside():
            return importlib.import_module(_installed()[name])
        module_name = f"ldct_denoise_method_{file.stem}"
        known = sys.modules.get(module_name)
        if known is not None and known.__file__ == str(file):
            return known
        return import_file(file, module_name)
    except Exception as error:  # the file is the user's own code
        raise ModelError(f"{file}: cannot be imported ({type(error).__name__}: {error})") from error


def check_settings(name: str, settings: Mapping[str, Any]) -> Any:
    """Validate the settings of a method.

    Parameters
    ----------
    name : str
        Name of the method.
    settings : mapping
        Settings that differ from its defaults.

    Returns
    -------
    pydantic.BaseModel
        All its settings.

    Raises
    ------
    ModelError
        If there is no such method.
    SettingError
        If a setting is unknown or has an impossible value.
    """
    from pydantic import ValidationError

    from ldct_denoise.setting_errors import setting_problem

    cls = find(name)
    try:
        return cls.Settings(**settings)
    except ValidationError as error:
        raise setting_problem(error, cls.Settings, prefix="settings", owner=name) from None


def import_file(file: Path, module_name: str) -> ModuleType:
    """Import a Python file of the user's own.

    Parameters
    ----------
    file : Path
    module_name : str
        Its name in ``sys.modules``, from which it is removed again if it fails.

    Returns
    -------
    ModuleType

    Raises
    ------
    Exception
        Whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def build(name: str, settings: Mapping[str, object], scale: Scale, *, for_training: bool = False) -> Method[Any]:
    """Build a method with freshly initialised weights.

    Parameters
    ----------
    name : str
        A method's name.
    settings : mapping
        Its settings; those that are not given have their defaults.
    scale : Scale
        HU range of its network units.
    for_training : bool
        Also build the networks that only training uses.

    Returns
    -------
    Method
        The method, on the CPU, in training mode.

    Raises
    ------
    ModelError
        If there is no such method.
    ConfigError
        If a setting is unknown or has an impossible value.
    """
    method = find(name)(check_settings(name, settings), scale)
    if for_training:
        method.add_training_networks()
    return method

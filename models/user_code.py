"""The user's code: `path/to/net.py:ClassName`, or the dotted name of an importable class.

Only the user names the code that runs, on the command line or in a call. A checkpoint records the file, the class, its
options and the file's hash, but nothing of it is executed.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import nn

from istd.utils.checkpoint import Checkpoint
from istd.utils.config import convert, nearest
from istd.utils.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[1]
CALLERS = (str(Path(torch.__file__).parent), importlib.__file__, __file__, str(CHECKOUT / "models" / "external.py"))
PLAIN_TYPES = {kind.__name__: kind for kind in (bool, int, float, str)}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
imported_folders: list[str] = []  # of the user's files; their modules stay importable


def is_external(name: str) -> bool:
    """Whether the name of a model has the form of code, instead of naming a network of `MODELS`."""
    return "." in name or ":" in name


def short_name(name: str) -> str:
    """The class of an external network, or the name of a network of `MODELS`."""
    return re.split(r"[.:]", name)[-1]


@lru_cache
def find_factory(name: str) -> Callable[..., nn.Module]:
    """The class, or the function that builds a network, of an external name. Imports, and so runs, its code.

    Raises `InputError` for a file, module or class that does not exist, or that cannot be imported.
    """
    if name.endswith(".py"):
        raise InputError(f"{name} names a file without its class; give {name}:ClassName")
    place, _, attribute = name.rpartition(":" if ":" in name else ".")
    if place.endswith(".py"):
        module = import_file(Path(place).resolve())
    else:
        with user_code(f"import {place}"):
            module = importlib.import_module(place)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        networks = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        listing = ", ".join(networks) or "none"
        raise InputError(f"{place} has no class {attribute}{nearest(attribute, networks)}; its networks: {listing}")
    return factory


@lru_cache
def import_file(path: Path) -> ModuleType:
    """Import a file, as part of the package that its folder belongs to, if any, with its neighbours importable."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; --model takes path/to/net.py:ClassName")
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    folders = list(dict.fromkeys([str(path.parent), str(root)]))
    forget_namesakes(folders)
    before = list(sys.path)
    # its `models` and `utils` are the folders beside it, not the folders of this checkout or of another network
    others = {str(CHECKOUT), *imported_folders}
    meanwhile = folders + [entry for entry in before if str(Path(entry).resolve()) not in others]
    sys.path[:] = meanwhile
    try:
        with user_code(f"import {path}"):
            if len(parts) > 1:
                return importlib.import_module(".".join(parts))
            # A package of this folder alone lets `from .blocks import Block` work there without `__init__.py`.
            package = ModuleType(f"external_{hashlib.sha256(str(root).encode()).hexdigest()[:8]}")
            package.__path__ = [str(root)]
            spec = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem.replace('.', '_')}", path)
            module = importlib.util.module_from_spec(spec)
            sys.modules.update({package.__name__: package, spec.name: module})  # relative imports look there
            spec.loader.exec_module(module)
            return module
    finally:
        added = [entry for entry in sys.path if entry not in meanwhile]  # by the user's code
        sys.path[:] = list(dict.fromkeys([*before, *folders, *added]))
        imported_folders.extend(folders)


def forget_namesakes(folders: list[str]) -> None:
    """Forget modules that other networks imported from beside their files, if `folders` have modules of these names.

    Those networks keep their modules.
    """
    for name in [name for name in sys.modules if "." not in name and name != "istd"]:
        places = [*getattr(sys.modules[name], "__path__", ()), getattr(sys.modules[name], "__file__", None)]
        folder = str(Path(places[0]).parent) if places[0] else ""
        if folder in imported_folders and folder not in folders and PathFinder.find_spec(name, folders):
            for module in [module for module in sys.modules if module.partition(".")[0] == name]:
                del sys.modules[module]


@contextmanager
def user_code(action: str) -> Iterator[None]:
    """Raise any error in the user's code as an `InputError`, which says what failed, why, and in which line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            f" ({Path(frame.filename).name}, line {frame.lineno})"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_file() and not frame.filename.startswith(CALLERS)
        ]
        advice = ""
        if isinstance(error, ModuleNotFoundError):
            advice = "; install that package, or put the folder that holds it on PYTHONPATH"
        elif isinstance(error, SystemExit):
            advice = "; code that ends the program, or reads its command line, cannot be used from here"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"cannot {action}: {reason}{(lines or [''])[-1]}{advice}") from error


def constructor_parameters(name: str) -> dict[str, inspect.Parameter]:
    """The parameters of an external network's constructor."""
    try:
        return dict(inspect.signature(find_factory(name)).parameters)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not tell its parameters; expected a class or function in Python") from error


def constructor_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert `options`, whose values may be text, for the constructor of an external network.

    Raises `InputError` for unknown and for missing options.
    """
    parameters = constructor_parameters(name)
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind not in VARIADIC}
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if (unknown := sorted(set(options) - set(named))) and not anything:
        raise InputError(f"{name} has no option '{', '.join(unknown)}'; its options: {', '.join(named) or 'none'}")
    missing = [key for key, parameter in named.items() if parameter.default is parameter.empty and key not in options]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}; give --model_options {missing[0]}=VALUE")
    return {key: _convert_option(f"option {key} of {name}", value, named.get(key)) for key, value in options.items()}


def _convert_option(title: str, value: Any, parameter: inspect.Parameter | None) -> Any:
    """Convert text to the parameter's annotated type if that is in PLAIN_TYPES, else read it as yaml."""
    if not isinstance(value, str):
        return value
    annotation = parameter.annotation if parameter else ""
    kind = PLAIN_TYPES.get(str(getattr(annotation, "__name__", annotation)))  # also where it is the text "int"
    if kind:
        return convert(title, value, kind)
    if value == "None":
        return None
    if re.fullmatch(r"[-+]?\d+e[-+]?\d+", value):  # a text in yaml
        return float(value)
    with suppress(yaml.YAMLError):
        return yaml.safe_load(value)
    return value


@lru_cache
def describe_code(name: str) -> dict[str, str]:
    """The name, the class, the file and the file's SHA-256 of an external network, for its checkpoints."""
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(find_factory(name))) or "")
    except TypeError:  # of a `functools.partial`, for instance
        file = Path(name.rpartition(":")[0])
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return {"name": name, "class": short_name(name), "file": file.name, "sha256": digest}


def choose_code(checkpoint: Checkpoint, code: list[str]) -> str:
    """The name in `code` of the network whose weights a checkpoint holds.

    Prints a note if the file has changed since the training. Raises `InputError` without code of that class.
    """
    recorded = checkpoint.code
    if not recorded:
        if len(code) > 1:
            raise InputError(f"{checkpoint.path} does not record its network, and --model names {len(code)}; name one")
        return code[0]
    names = [name for name in code if short_name(name) == recorded["class"]]
    if not names:
        instead = f"--model gives {', '.join(code)}; " if code else ""
        raise InputError(
            f"{checkpoint.path} holds weights of {recorded['class']}, trained from {recorded['file']} (SHA-256 "
            f"{recorded['sha256'][:12]}); {instead}a checkpoint brings no code, so name it: "
            f"--model path/to/{recorded['file']}:{recorded['class']}"
        )
    for name in names:
        if describe_code(name)["sha256"] == recorded["sha256"]:
            return name
    print(f"note: {recorded['file']} has changed since {checkpoint.path} was trained")
    return names[0]

"""In a checkout, `models` is another name of `istd.models`, and so on, so that no class exists twice.

All code here imports its packages as `istd.models`. Python's path also has the checkout itself, where a script or a
notebook may write `from models import load_model`. Imported a second time under that name, the modules would define
every class anew, and `isinstance` would fail between the two.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from types import ModuleType


def share_with_istd(package: str) -> None:
    """Make `package`, such as "models", another name of `istd.models`; called in the package's `__init__.py`."""
    if package.startswith("istd."):
        return
    sys.modules[package] = importlib.import_module(f"istd.{package}")
    sys.meta_path.insert(0, BareNames(package))


class BareNames(MetaPathFinder):
    """Finds `istd.models.datransnet`, for instance, under its bare name `models.datransnet`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of `fullname`, or None if it is not in this package."""
        if not fullname.startswith(f"{self.package}.") or (spec := find_spec(f"istd.{fullname}")) is None:
            return None
        loader = SharedLoader(fullname, spec.origin)
        inside = spec.submodule_search_locations
        return spec_from_file_location(fullname, spec.origin, loader=loader, submodule_search_locations=inside)


class SharedLoader(SourceFileLoader):
    """Loads a module of `istd` under its bare name; `python -m` reads its code as from any module."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its full name."""
        module = importlib.import_module(f"istd.{spec.name}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's spec, which Python has just replaced; the module itself was run by `create_module`."""
        module.__spec__ = self._spec

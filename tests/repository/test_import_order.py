"""Imports between our packages run one way: utils <- datasets, models <- test_script <- train_script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "utils": {"utils"},
    "datasets": {"utils", "datasets"},
    "models": {"utils", "models"},
    "test_script": {"utils", "datasets", "models", "test_script"},
    "train_script": {"utils", "datasets", "models", "test_script", "train_script"},
}
ROOMS = {  # of test_script, whose commands stand above them
    "predictor": {"predictor"},
    "media": {"predictor", "media"},
    "results": {"predictor", "results"},
    "report": {"predictor", "results", "report"},
}


def imported_packages(path: Path) -> set[str]:
    """Names of our packages that a file imports, at any depth of its code."""
    return {module.split(".")[1] for module in imported_modules(path) if module.startswith("istd.")}


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path}: a relative import may not leave its own package"
            if node.level == 0:
                names.add(node.module)
                names |= {f"istd.{alias.name}" for alias in node.names} if node.module == "istd" else set()
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"package {package} has no files"
    for path in files:
        wrong = imported_packages(path) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, allowed: {sorted(MAY_IMPORT[package])}"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_the_rooms_of_test_script_run_one_way(room):
    for path in sorted((ROOT / "test_script" / room).rglob("*.py")):
        rooms = {name.split(".")[2] for name in imported_modules(path) if name.startswith("istd.test_script.")}
        wrong = rooms - ROOMS[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, allowed: {sorted(ROOMS[room])}"


def test_the_check_sees_imports_inside_functions(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("def f():\n    from istd.models.x import y\n    import istd.utils\n    from istd import datasets\n")
    assert imported_packages(path) == {"models", "utils", "datasets"}


def test_packages_are_imported_under_the_name_that_is_installed():
    """Under their bare names they would be other packages, or second copies of ours, once `istd` is installed."""
    for path in (path for folder in (*MAY_IMPORT, "istd", "tests") for path in (ROOT / folder).rglob("*.py")):
        bare = {name for name in imported_modules(path) if name.split(".")[0] in MAY_IMPORT}
        assert not bare, f"{path.relative_to(ROOT)} imports {sorted(bare)}; write istd.{min(bare)}"

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


def imported_packages(path: Path) -> set[str]:
    """Names of our top-level packages that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path}: a relative import may not leave its own package"
            if node.level == 0:
                names.add(node.module.split(".")[0])
    return names & set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"package {package} has no files"
    for path in files:
        wrong = imported_packages(path) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, allowed: {sorted(MAY_IMPORT[package])}"


def test_the_check_sees_imports_inside_functions(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("def f():\n    from models.x import y\n    import utils.z\n    import numpy\n")
    assert imported_packages(path) == {"models", "utils"}

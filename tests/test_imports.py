"""Who may import whom: types, errors <- the rest of rag_owl <- {indexer, model} <- api.

The modules in COMPOSERS compose and may import the siblings. Read from the syntax
tree, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SIBLINGS = ("indexer", "model", "api", "migrations")
COMPOSERS = {"asked_media", "job_kinds", "models", "operations", "storage", "system"}


def sources() -> list[tuple[str, Path]]:
    """(area, file) of the whole product; area: core, indexer, model, api or migrations."""
    found = [("core", path) for path in sorted((ROOT / "rag_owl").glob("*.py"))]
    for folder in sorted((ROOT / "rag_owl").iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            found += [("core", path) for path in sorted(folder.rglob("*.py"))]
    for area in SIBLINGS:
        found += [(area, path) for path in sorted((ROOT / area).rglob("*.py"))]
    return found


# Parsed before the first test: Python 3.11 counts the depth of a syntax tree for all threads as
# one (issue 106905), and other tests leave threads, or finalizers, that format tracebacks.
TREES = {path: ast.parse(path.read_text("utf-8")) for _, path in sources()}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def area_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "rag_owl":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in SIBLINGS else "core"


ALLOWED = {
    "core": {"core"},
    "indexer": {"core", "indexer"},
    "model": {"core", "model"},
    "api": {"core", "indexer", "model", "api"},
    "migrations": {"core"},
}


@pytest.mark.parametrize(("area", "path"), sources(), ids=lambda value: str(value))
def test_imports_point_inwards(area: str, path: Path) -> None:
    allowed = ALLOWED[area]
    if path.stem in COMPOSERS and path.parent == ROOT / "rag_owl":
        allowed = {"core", "indexer", "model"}
    if path == ROOT / "rag_owl" / "__init__.py":
        allowed = {"core"}
    for module in imports(path):
        area_imported = area_of(module)
        assert area_imported is None or area_imported in allowed, f"{path} imports {module}"
        if area == "migrations" and area_imported:
            assert module.startswith("rag_owl.rows"), f"{path} imports {module}"
        if path.name in ("types.py", "errors.py") and path.parent == ROOT / "rag_owl":
            assert area_imported is None, f"{path} imports {module}"


def test_the_sources_are_found() -> None:
    assert {area for area, _ in sources()} == set(ALLOWED)
    assert len(sources()) > 40


@pytest.mark.parametrize("heavy", ["torch", "transformers", "faiss", "sqlalchemy", "PIL"])
def test_import_rag_owl_loads_nothing_heavy(heavy: str) -> None:
    code = f"import sys, rag_owl; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_trusts_remote_code() -> None:
    for _, path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path

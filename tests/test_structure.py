"""Imports point one way: helpers, then data, the core, evaluation, and the studies on top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "kdcore").rglob("*.py"))
}
FLOORS = ("helper", "data", "core", "evaluation", "study")
COMMANDS = ("distil",)
"""On top, beside the studies: nobody imports them."""


def floor(module: str) -> str:
    wing = module.split(".")[1] if "." in module else ""
    if wing in COMMANDS:
        return "study"
    return "helper" if wing.startswith("_") else wing if wing in FLOORS else "core"


def imports(path: Path) -> set[str]:
    """Modules of kdcore that a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdcore":
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "kdcore"}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m != "kdcore"])
def test_a_module_imports_only_from_its_floor_and_below(module):
    for other in imports(MODULES[module]):
        assert other != "kdcore", f"{module} imports the whole package"
        assert FLOORS.index(floor(other)) <= FLOORS.index(floor(module)), f"{module} → {other}"


def test_the_public_names_stand_below_the_studies():
    assert not [m for m in imports(MODULES["kdcore"]) if floor(m) == "study"]


def test_there_is_no_circle():
    left = {module: imports(path) & set(MODULES) for module, path in MODULES.items()}
    while free := [module for module, needed in left.items() if not needed & set(left)]:
        for module in free:
            del left[module]
    assert not left


@pytest.mark.parametrize("module", MODULES)
def test_no_import_is_hidden_in_a_function(module):
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    hidden = [
        node.module or ""
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
    ]
    assert not [name for name in hidden if name.split(".")[0] == "kdcore"]


def test_the_data_wing_needs_no_keras():
    text = "".join(path.read_text("utf-8") for m, path in MODULES.items() if floor(m) == "data")
    assert "import keras" not in text and "from keras" not in text


@pytest.mark.parametrize("module", MODULES)
def test_the_library_reads_nothing_of_the_repository(module):
    text = MODULES[module].read_text("utf-8")
    assert '"docs"' not in text and "examples/" not in text.replace("python examples/", "")


def test_the_numbers_of_the_house_can_be_counted():
    script = ROOT / "docs" / "_tools" / "structure.py"
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "| circles | none |" in told.stdout

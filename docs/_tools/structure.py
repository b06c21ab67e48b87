"""How kdcore is built, in numbers: `python docs/_tools/structure.py [--against REV]`.

Prints a Markdown table of the working tree, and beside it that of another commit. Lines are all
lines of a file; code is what is left without docstrings, comments and empty lines. An arrow is a
module that imports another; a module's floor is the longest chain of imports below it, and
modules that import each other in a circle share one.
"""

import argparse
import ast
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
FLAT = ["arguments", "config", "experiment", "published", "results", "runs", "summary", "tasks"]
"""What is `kdcore.study` now, as its modules were called before."""
Trees = dict[str, tuple[ast.Module, str]]
"""`{path: (parsed, source)}` of Python files."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="REV", help="a commit to set beside the working tree")
    revision = parser.parse_args().against
    now = measures(parsed(working_tree()))
    columns = {"now": now}
    if revision:
        columns = {revision: measures(parsed(of_commit(revision))), "now": now}
    print("| |", " | ".join(columns), "|")
    print("|---|" + "---|" * len(columns))
    for name in now:
        print(f"| {name} |", " | ".join(column[name] for column in columns.values()), "|")
    return 0


def working_tree() -> dict[str, str]:
    files = [*ROOT.glob("kdcore/**/*.py"), *ROOT.glob("examples/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(files)}


def of_commit(revision: str) -> dict[str, str]:
    listed = git("ls-tree", "-r", "--name-only", revision, "kdcore", "examples").splitlines()
    return {path: git("show", f"{revision}:{path}") for path in listed if path.endswith(".py")}


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


def parsed(sources: Mapping[str, str]) -> Trees:
    return {path: (ast.parse(text), text) for path, text in sources.items()}


def measures(trees: Trees) -> dict[str, str]:
    """Each row of the table, as text."""
    library = {path: tree for path, tree in trees.items() if path.startswith("kdcore/")}
    examples = {path: tree for path, tree in trees.items() if path.startswith("examples/")}
    arrows = imports(library)
    floors, circles = floors_of(arrows)
    lines = {path: len(text.splitlines()) for path, (_, text) in library.items()}
    functions = [length for tree, _ in library.values() for length in lengths(tree)]
    core = [path for path in library if path.count("/") == 1]
    raises = sum(isinstance(n, ast.Raise) for tree, _ in library.values() for n in ast.walk(tree))
    calling, code = helper_lines(examples)
    return {
        "modules": str(sum(not path.endswith("__init__.py") for path in library)),
        "lines of kdcore": f"{sum(lines.values()):,}",
        "lines of the core": f"{sum(lines[path] for path in core):,}",
        "… of it code": f"{sum(map(code_lines, (library[path] for path in core))):,}",
        "floors": str(max(floors.values()) + 1),
        "arrows": str(sum(map(len, arrows.values()))),
        "circles": ", ".join(" ↔ ".join(circle) for circle in circles) or "none",
        "median function, lines": f"{median(functions):g}",
        "raises per 100 lines": f"{100 * raises / sum(lines.values()):.1f}",
        "lines of code in the examples": str(code),
        "… that call a helper": f"{100 * calling / max(code, 1):.0f} %",
    }


def code_lines(source: tuple[ast.Module, str]) -> int:
    tree, text = source
    told = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = text.splitlines()
    return sum(
        n not in told and line.split("#")[0].strip() != "" for n, line in enumerate(lines, 1)
    )


def imports(library: Trees) -> dict[str, set[str]]:
    """Which modules each module imports, packages' `__init__` left out where it is passed by."""
    names = {module_of(path) for path in library}
    return {
        module_of(path): (set(targets(tree, names)) & names) - {module_of(path)}
        for path, (tree, _) in library.items()
    }


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def targets(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Dotted names of what is imported: a module, or the module that a name is taken from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in names else node.module


def floors_of(arrows: Mapping[str, set[str]]) -> tuple[dict[str, int], list[list[str]]]:
    """The floor of each module, from 0, and the circles."""
    above = {name: reached(name, arrows) for name in arrows}
    circle = {n: frozenset({m for m in above[n] if n in above[m]} | {n}) for n in arrows}
    floors: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in floors:
            below = {target for one in circle[name] for target in arrows[one]} - circle[name]
            floors.update(dict.fromkeys(circle[name], 1 + max(map(floor, below), default=-1)))
        return floors[name]

    for name in arrows:
        floor(name)
    return floors, sorted(sorted(one) for one in set(circle.values()) if len(one) > 1)


def reached(name: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """All that a module imports, and what that imports."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = arrows[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def lengths(tree: ast.Module) -> Iterator[int]:
    """Lines of each function, its docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def helper_lines(examples: Trees) -> tuple[int, int]:
    """Lines of code that call what no reader finds in Keras or kdcore's core, and all of them.

    Helpers are what examples import from `kdcore.study`, from `settings`, and the names that
    such calls are assigned to: `job.train(...)` is one if `job` came from a helper.
    """
    calling = code = 0
    for path, (tree, text) in examples.items():
        if path.endswith("settings.py"):
            continue
        helpers = helper_names(tree)
        used = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and root_of(node.func) in helpers
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = [n for n, line in enumerate(text.splitlines(), 1) if line.split("#")[0].strip()]
        code += len(lines)
        calling += len(used.intersection(lines))
    return calling, code


def helper_names(tree: ast.Module) -> set[str]:
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if helps(node.module or "", alias.name)
    }
    for node in ast.walk(tree):
        made = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if made and root_of(node.value.func) in names:
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def helps(module: str, name: str) -> bool:
    """Whether a name stands between a reader and what an example does."""
    flat = [f"kdcore.{each}" for each in FLAT]
    return f"{module}.".startswith(("settings.", "kdcore.study.")) or bool(
        {module, f"{module}.{name}"} & set(flat)
    )


def root_of(node: ast.expr) -> str:
    """The first name of `a.b(c).d`."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


if __name__ == "__main__":
    raise SystemExit(main())

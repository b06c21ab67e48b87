"""Fill the tables of the Markdown files from `docs/results/*.json`.

A table stands between `<!-- begin: name -->` and `<!-- end: name -->`. With `--check`
nothing is written and the exit status says whether a table is stale.
"""

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import softmax

from kdcore._files import read_json
from kdcore.evaluation import tables
from kdcore.evaluation.metrics import mean_dice
from kdcore.evaluation.statistics import compare
from kdcore.evaluation.tables import markdown
from kdcore.losses import kd_loss
from kdcore.study import results
from kdcore.study.summary import adjust
from kdcore.study.tasks import TASKS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
_PAGES = "design.md pitfalls.md lab.md study-plan.md testing.md weights/README.md"
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in _PAGES.split()))
HIPPOCAMPUS = TASKS["hippocampus"].scored
SIMULATED = TASKS["simulated"].scored
BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def study(name: str) -> dict:
    return results.load_results(RESULTS / f"{name}.json")


def seeds() -> dict:
    return study("hippocampus-quick")


def simulated() -> dict:
    """Teacher, student and baseline of the study; p values are adjusted over all its arms."""
    found = having(study("evidence-simulated-quick-8-labels"))
    core = {"teacher", "student", "baseline"}
    found["arms"] = {arm: entry for arm, entry in found["arms"].items() if arm in core}
    found["comparisons"] = [row for row in found["comparisons"] if {row["a"], row["b"]} <= core]
    return found


def having(found: dict) -> dict:
    """Results and comparisons without the labels that a case's reference lacks."""
    rest = results.where_present(found)
    rows = found["comparisons"]
    rest["comparisons"] = [compare(rest, r["a"], r["b"], label=r["label"]) for r in rows]
    adjust(rest["comparisons"])
    return rest


def budgets(label: str) -> str:
    """The cross-modal study over its numbers of labels."""
    files = sorted(
        RESULTS.glob("cross-modal-simulated-quick-*-labels.json"),
        key=lambda path: int(path.stem.split("-")[-2]),
    )
    loaded = [results.load_results(path) for path in files]
    return tables.budget_table([s for s in loaded if s["gap_closed"]], label)


def rows(name: str) -> str:
    """A file `{"columns": [...], "rows": [[...], ...]}` as it is."""
    content = read_json(RESULTS / f"{name}.json")
    cells = [[_cell(value) for value in row] for row in content["rows"]]
    return markdown(content["columns"], cells)


def torture() -> str:
    """What was done and what held, and how long all of it took."""
    told = read_json(RESULTS / "torture.json")
    took = f"{told['seconds'] / 60:.0f} minutes on {told['hardware']['cores']} cores"
    return markdown(told["columns"], [*told["rows"], ["all of it", "", "", took]])


def bench() -> str:
    """The rows, and which parts were measured on which processor."""
    rows = read_json(RESULTS / "bench.json")["rows"]
    table = [
        [
            row["name"],
            row["unit"],
            *(f"{row[key]:.3g}" for key in ("min", "median", "max")),
            row.get("target", ""),
        ]
        for row in rows
    ]
    parts: dict[str, dict[str, None]] = {}
    for row in rows:
        parts.setdefault(row["processor"], {})[row["part"]] = None
    told = "; ".join(f"{processor}: {', '.join(names)}" for processor, names in parts.items())
    header = ["row", "unit", "min", "median", "max", "target"]
    return f"{markdown(header, table)}\n\nMeasured on {told}."


def replication() -> str:
    """The runs that were made twice: on another backend and machine, from other weights."""
    table = []
    for (labels, arm), values in sorted(made_twice().items()):
        cpu, gpu = np.mean(values, axis=0)
        changes = [100 * (second - first) for first, second in values]
        numbers = [f"{cpu:.3f}", f"{gpu:.3f}", f"{100 * (gpu - cpu):+.2f}"]
        numbers.append(f"{min(changes):+.2f} … {max(changes):+.2f}")
        table.append([str(labels), arm, str(len(values)), *numbers])
    header = ["labels", "arm", "runs", "TensorFlow, CPU", "JAX, GPU", "difference in points"]
    return markdown([*header, "of single runs"], table)


@lru_cache
def made_twice() -> dict[tuple[int, str], list[tuple[float, float]]]:
    """Mean Dice of each such run on either machine, by number of labels and arm."""
    pairs: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for path in sorted((RESULTS / "records-cpu").glob("*.json")):
        first, second = (read_json(p) for p in (path, RESULTS / "records" / path.name))
        both = mean_dice(first["per_case"]), mean_dice(second["per_case"])
        pairs.setdefault((len(first["split"]["labelled"]), first["arm"]), []).append(both)
    return pairs


def weights() -> str:
    index = ROOT / "docs/weights/weights.json"
    table = [
        [
            f"[{name}]({name})",
            str(entry["labels"]),
            f"{entry['params']:,}",
            f"{entry['test_dice']:.3f}",
            entry["file_digest"][:12],
        ]
        for name, entry in (read_json(index) if index.exists() else {}).items()
    ]
    return markdown(["file", "labels", "parameters", "mean Dice on test", "SHA-256"], table)


def lab() -> str:
    """The worked example of the temperature lab: one voxel at four temperatures."""
    teacher, student = np.array([[6.0, 2.0, -4.0]]), np.array([[6.0, 2.0, -8.0]])
    table = []
    for T in (1.0, 2.0, 4.0, 8.0):
        p, q = (softmax(z / T, axis=-1)[0] for z in (teacher, student))
        entropy, loss = -(p * np.log(p)).sum(), float(kd_loss(teacher, student, T))
        gradient = float(np.linalg.norm(T * (q - p)))
        probabilities = [" · ".join(f"{x:.3f}" for x in one) for one in (p, q)]
        numbers = [loss / T**2, loss, gradient / T**2, gradient]
        table.append([f"{T:g}", *probabilities, f"{entropy:.3f}", *(f"{x:.3g}" for x in numbers)])
    header = ["T", "teacher p", "student q", "entropy of p", "KL", "T² KL"]
    return markdown([*header, "gradient", "T² gradient"], table)


TABLES: dict[str, Callable[[], str]] = {
    "arms": lambda: tables.table(seeds(), HIPPOCAMPUS),
    "all-labels": lambda: tables.table(study("hippocampus-quick-all-labels"), HIPPOCAMPUS),
    "simulated-arms": lambda: tables.table(simulated(), SIMULATED),
    "simulated-comparisons": lambda: tables.comparison_table(simulated(), SIMULATED),
    "cross-modal-whole": lambda: budgets("whole tumour"),
    "cross-modal-core": lambda: budgets("2"),
    "cross-modal-comparisons": lambda: tables.comparison_table(
        study("cross-modal-simulated-quick-20-labels"), SIMULATED
    ),
    "cross-modal-all-labels": lambda: tables.table(
        study("cross-modal-simulated-quick-160-labels"), SIMULATED
    ),
    "cross-modal-ceiling": lambda: rows("cross-modal-ceiling"),
    "cross-modal-tuning": lambda: rows("tuning-simulated"),
    "cross-modal-contrast": lambda: rows("cross-modal-contrast"),
    "recipe": lambda: rows("recipe-2020"),
    "seeds": lambda: tables.seed_table(seeds()),
    "comparisons": lambda: tables.comparison_table(seeds()),
    "tuning": lambda: rows("tuning"),
    "tuning-150k": lambda: rows("tuning-150k"),
    "tuning-baseline": lambda: rows("tuning-baseline"),
    "collapse": lambda: rows("collapse"),
    "bench": bench,
    "pitfalls": lambda: rows("pitfalls"),
    "weights": weights,
    "lab": lab,
    "replication": replication,
    "torture": torture,
}


def filled(text: str) -> str:
    """The text with every table made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main() -> int:
    texts = {page: page.read_text("utf-8") for page in PAGES}
    stale = [page for page, text in texts.items() if filled(text) != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: a table differs from docs/results")
        if "--check" not in sys.argv:
            page.write_text(filled(texts[page]), "utf-8")
    return bool(stale) if "--check" in sys.argv else 0


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())

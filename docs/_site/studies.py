"""What the results files say, for the pages: a study by its name, and what its arms came to."""

from functools import lru_cache
from typing import Any

import make_tables
import numpy as np

from kdcore import results, tables
from kdcore.statistics import compare, equivalence, per_case


@lru_cache
def study(name: str) -> dict[str, Any]:
    """A results file by its name."""
    return results.load_results(make_tables.RESULTS / f"{name}.json")


def budgets(prefix: str) -> list[str]:
    """The studies `prefix`-N-labels that are there, fewest labels first."""
    found = make_tables.RESULTS.glob(f"{prefix}-*-labels.json")
    return sorted((path.stem for path in found), key=lambda stem: int(stem.split("-")[-2]))


def average(name: str, arm: str, label: str = "mean", metric: str = "dice") -> float:
    return results.mean_over_cases(study(name), arm, label, metric)


def row(
    name: str, a: str, b: str, label: str = "mean", among: str = "comparisons"
) -> dict[str, Any]:
    """The comparison a − b as it stands in the file, or what `among` says of the two."""
    for found in study(name)[among]:
        if (found["a"], found["b"], found["label"]) == (a, b, label):
            return found
    raise LookupError(f"{name}.json has no {a} − {b} in {label} among its {among}.")


def points(name: str, a: str, b: str, label: str = "mean") -> float:
    """A − b in Dice points."""
    return 100 * row(name, a, b, label)["difference"]


def excludes_zero(name: str, a: str, b: str, label: str = "mean") -> bool:
    low, high = row(name, a, b, label)["interval"]
    return low > 0 or high < 0


@lru_cache
def across(few: str, a: str, every: str, b: str) -> dict[str, Any]:
    """Arm a of one file compared with arm b of another that has the same test cases."""
    both = {"arms": {"a": study(few)["arms"][a], "b": study(every)["arms"][b]}}
    return compare(both, "a", "b") | {"equivalence": equivalence(both, "a", "b", 0.01)}


def of_folds(name: str, a: str, b: str) -> list[float]:
    """A − b in Dice points of each fold."""
    one, other = (per_case(study(name), arm, "mean", "dice") for arm in (a, b))
    folds = study(name)["split"]["folds"]
    return [100 * float(np.mean([one[c] - other[c] for c in fold["test"]])) for fold in folds]


def largest_change() -> float:
    """Of a run that was made twice, in Dice points."""
    runs = [run for values in make_tables.made_twice().values() for run in values]
    return max(100 * abs(first - second) for first, second in runs)


def not_worse(name: str, a: str, b: str, label: str = "mean") -> bool:
    """Whether a is non-inferior to b by the test in the file."""
    return bool(row(name, a, b, label, "equivalence")["p_not_worse"] < 0.05)


GRID = "ablation-hippocampus-quick-8-labels"


def grid_dice(least: float, most: float = 1.0) -> list[float]:
    """Of the cells of the grid whose alpha lies between."""
    cells = tables.grid(study(GRID))
    return [dice for (_, alpha), dice in cells.items() if least <= alpha <= most]


def spread_of_temperature() -> float:
    """Largest less least Dice over the temperatures, averaged over alpha."""
    cells = tables.grid(study(GRID))
    means = [np.mean([v for (T, _), v in cells.items() if each == T]) for each, _ in cells]
    return float(max(means) - min(means))


def false_finds(name: str, arm: str, label: str) -> str:
    """In how many runs over subjects without a label a network found it, in words."""
    arms = study(name)["arms"].values()
    runs = [
        (c, run[label]["dice"])
        for a in arms
        for c, r in a["per_case"].items()
        for run in r.values()
    ]
    without = {case for case, value in runs if value is None}
    own = study(name)["arms"][arm]["per_case"]
    values = [run[label]["dice"] for case in without for run in own[case].values()]
    return f"{values.count(0)} of {len(values)}"

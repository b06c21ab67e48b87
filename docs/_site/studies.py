"""What the results files say, for the pages: a study by its name, and what its arms came to."""

from functools import lru_cache
from typing import Any

import make_tables
import numpy as np

from kdcore import results
from kdcore.statistics import compare, equivalence, per_case


@lru_cache
def study(name: str) -> dict[str, Any]:
    """A results file by its name."""
    return results.load_results(make_tables.RESULTS / f"{name}.json")


def exists(name: str) -> bool:
    return (make_tables.RESULTS / f"{name}.json").is_file()


def budgets(prefix: str) -> list[str]:
    """The studies `prefix`-N-labels that are there, fewest labels first."""
    found = make_tables.RESULTS.glob(f"{prefix}-*-labels.json")
    return sorted((path.stem for path in found), key=lambda stem: int(stem.split("-")[-2]))


def average(name: str, arm: str, label: str = "mean", metric: str = "dice") -> float:
    values = np.array(list(per_case(study(name), arm, label, metric).values()), dtype=float)
    return float(np.nanmean(values))


def row(name: str, a: str, b: str, label: str = "mean") -> dict[str, Any]:
    """The comparison a − b as it stands in the file."""
    for found in study(name)["comparisons"]:
        if (found["a"], found["b"], found["label"]) == (a, b, label):
            return found
    raise LookupError(f"{name}.json compares no {a} with {b} in {label}.")


def points(name: str, a: str, b: str, label: str = "mean") -> float:
    """A − b in Dice points."""
    return 100 * row(name, a, b, label)["difference"]


def excludes_zero(name: str, a: str, b: str, label: str = "mean") -> bool:
    low, high = row(name, a, b, label)["interval"]
    return low > 0 or high < 0


def across(few: str, a: str, every: str, b: str) -> dict[str, Any]:
    """Arm a of one file compared with arm b of another that has the same test cases."""
    both = {"arms": {"a": study(few)["arms"][a], "b": study(every)["arms"][b]}}
    return compare(both, "a", "b") | {"equivalence": equivalence(both, "a", "b", 0.01)}


def of_folds(name: str, a: str, b: str) -> str:
    """A − b in Dice points of each fold."""
    one, other = (per_case(study(name), arm, "mean", "dice") for arm in (a, b))
    folds = [
        100 * np.mean([one[c] - other[c] for c in fold["test"]])
        for fold in study(name)["split"]["folds"]
    ]
    return ", ".join(f"{value:+.2f}" for value in folds).replace("-", "−")


def largest_change() -> float:
    """Of a run that was made twice, in Dice points."""
    runs = [run for values in make_tables.made_twice().values() for run in values]
    return max(100 * abs(first - second) for first, second in runs)


def not_worse(name: str, a: str, b: str, label: str = "mean") -> bool:
    """Whether a is non-inferior to b by the test in the file."""
    found = [
        row
        for row in study(name)["equivalence"]
        if (row["a"], row["b"], row["label"]) == (a, b, label)
    ]
    return bool(found[0]["p_not_worse"] < 0.05)


GRID = "ablation-hippocampus-quick-8-labels"


def grid_means(axis: str) -> dict[float, list[float]]:
    """Dice of the students at each value of "temperature" or "alpha"."""
    found: dict[float, list[float]] = {}
    for arm in study(GRID)["arms"]:
        taught = study(GRID)["config"]["arms"][arm]["distillation"]
        if taught is not None:
            found.setdefault(taught[axis], []).append(average(GRID, arm))
    return found


def spread_of_grid(axis: str) -> float:
    """Largest less least Dice along one axis, averaged over the other."""
    means = [float(np.mean(values)) for values in grid_means(axis).values()]
    return max(means) - min(means)


def largest_of_grid(least: float, most: float | None = None) -> float:
    """Of all whose alpha lies between; of one alpha, if only that is given."""
    most = least if most is None else most
    return max(max(v) for alpha, v in grid_means("alpha").items() if least <= alpha <= most)


def smallest_of_grid(least: float) -> float:
    """Of all with at least this alpha."""
    return min(min(values) for alpha, values in grid_means("alpha").items() if alpha >= least)


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

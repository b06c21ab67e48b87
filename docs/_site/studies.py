"""What the results files say, for the pages: a study by its name, and what its arms came to."""

from functools import lru_cache
from typing import Any

import make_tables
import numpy as np
from scipy import stats

from kdcore.evaluation import tables
from kdcore.evaluation.statistics import bootstrap_interval, compare, equivalence, per_case
from kdcore.study import results
from kdcore.study import settings as config


@lru_cache
def study(name: str) -> dict[str, Any]:
    """A results file by its name; `name@present` is over the cases that have a label."""
    file, _, present = name.partition("@")
    found = results.load_results(make_tables.RESULTS / f"{file}.json")
    found["arms"] = as_configured(found["arms"])
    return make_tables.having(found) if present else found


def as_configured(arms: dict[str, Any]) -> dict[str, Any]:
    """The arms in the order in which they are configured; JSON has them by the alphabet."""
    tiers = [tier for data in config.STUDIES.values() for tier in data.values()]
    order = list(dict.fromkeys(arm for tier in tiers for arm in tier["quick"].arms))
    return dict(sorted(arms.items(), key=lambda item: order.index(item[0])))


def budgets(prefix: str) -> list[str]:
    """The studies `prefix`-N-labels that are there, fewest labels first."""
    found = make_tables.RESULTS.glob(f"{prefix}-*-labels.json")
    return sorted((path.stem for path in found), key=lambda stem: int(stem.split("-")[-2]))


def average(name: str, arm: str, label: str = "mean", metric: str = "dice") -> float:
    return results.mean_over_cases(study(name), arm, label, metric)


def validation(name: str, arm: str) -> float:
    """Mean Dice over the validation cases and seeds."""
    runs = study(name)["arms"][arm]["runs"].values()
    return float(np.mean([run["validation_dice"] for run in runs]))


def best(name: str) -> str:
    """The arm with the highest mean Dice."""
    return max(study(name)["arms"], key=lambda arm: average(name, arm))


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


def luck_of_training(labels: int) -> float:
    """Half the 95 % interval of a difference of two means of three trainings, in Dice points.

    From the runs that were made twice: how much student − baseline and teacher − baseline of one
    seed changed. A change has √2 times the standard deviation of one such difference.
    """
    twice = make_tables.made_twice()
    runs = np.array([twice[labels, arm] for arm in ("teacher", "student")])
    differences = 100 * (runs - np.array(twice[labels, "baseline"]))
    changes = differences[..., 1] - differences[..., 0]
    return float(1.96 * np.sqrt(np.mean(changes**2) / 2 / 3))


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
    return "{} of {}".format(*results.false_finds(study(name), arm, label))


def finds_of(name: str, arm: str, label: str) -> int:
    """In how many runs over subjects without a label a network found it."""
    return results.false_finds(study(name), arm, label)[0]


def change_of_belief(
    name: str, a: str, b: str, metric: str = "ece"
) -> tuple[float, list[float] | None]:
    """A metric of calibration, a − b, paired by case, seeds averaged; with its interval."""
    one, other = (_beliefs(study(name)["arms"][arm]["calibration"], metric) for arm in (a, b))
    change = np.array([one[case] - other[case] for case in sorted(one)])
    return float(change.mean()), bootstrap_interval(change)


def _beliefs(calibration: dict[str, Any], metric: str) -> dict[str, float]:
    return {c: float(np.mean([s[metric] for s in v.values()])) for c, v in calibration.items()}


def of_seeds(name: str, a: str, b: str) -> list[float]:
    """A − b in Dice points of each seed."""
    one, other = (results.dice_of_seeds(study(name)["arms"][arm]) for arm in (a, b))
    return [100 * (one[seed] - other[seed]) for seed in sorted(one)]


def half_width(values: list[float]) -> float:
    """Of the 95 % t interval of the mean of a few trainings."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def commits_of(found: dict[str, Any]) -> list[str]:
    """Of the code that made the runs; `+changes` where it was not all committed."""
    runs = [run for arm in found["arms"].values() for run in arm["runs"].values()]
    commits = {run.get("commit") or found["commit"] for run in runs}
    return sorted({f"{c[:10]}{'+changes' * c.endswith('+changes')}" for c in commits})

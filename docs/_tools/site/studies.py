"""What the studies say, for the pages: their scores by name, and what their arms came to."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdcore.evaluation import scores as long_table
from kdcore.evaluation import tables
from kdcore.evaluation.scores import Table, arms_of, mean_of, per_case, per_seed, read_results
from kdcore.evaluation.statistics import (
    adjust,
    bootstrap_interval,
    compare,
    equivalence,
    gap_closed,
)

RESULTS = Path(__file__).parents[2] / "results"


def published(*names: str) -> str | None:
    """The first of some studies that is there."""
    return next((name for name in names if (RESULTS / f"{name}.csv.gz").exists()), None)


def study(name: str) -> dict[str, Any]:
    """What is known of a study beside its scores; `name@present` is over cases with a label."""
    return _read(name)[1]


def scores(name: str) -> Table:
    """The scores of a study."""
    return _read(name)[0]


@lru_cache
def _read(name: str) -> tuple[Table, dict[str, Any]]:
    file, _, present = name.partition("@")
    table, about = read_results(RESULTS / f"{file}.csv.gz")
    about["arms"] = {arm: about["arms"][arm] for arm in arms_of(table)}  # JSON sorts them
    if present:
        table = long_table.where_present(table, about["absent"])
        rows = about["comparisons"]
        again = [compare(table, row["a"], row["b"], label=row["label"]) for row in rows]
        adjust(again)
        about["comparisons"] = again
    return table, about


def forget() -> None:
    """Read every file anew."""
    for cached in (_read, across, gap, patients):
        cached.cache_clear()


def budgets(prefix: str) -> list[str]:
    """The studies `prefix`-N-labels that are there, fewest labels first."""
    found = (
        path.name.removesuffix(".csv.gz") for path in RESULTS.glob(f"{prefix}-*-labels.csv.gz")
    )
    return sorted(found, key=lambda name: int(name.split("-")[-2]))


def average(name: str, arm: str, label: str = "mean", metric: str = "dice") -> float:
    return mean_of(scores(name), arm, label, metric)


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


@lru_cache
def patients(name: str, a: str, b: str) -> dict[str, Any]:
    """How the gain spreads over the cases (of ACDC the patients), in Dice points.

    `median`, `most`, `above` (how many are above 0), and `others`: the comparison without the case
    that gained most.
    """
    table = scores(name)
    if "patients" in study(name):
        table = long_table.per_patient(table, study(name)["patients"])
    gains = 100 * (per_case(table, a) - per_case(table, b))
    others = table[table["case"] != gains.idxmax()]
    spread = {"median": float(gains.median()), "most": float(gains.max())}
    return spread | {"above": int((gains > 0).sum()), "others": compare(others, a, b)}


@lru_cache
def gap(name: str, label: str = "mean") -> dict[str, Any]:
    """What share of the gap from baseline to teacher the student closes."""
    return gap_closed(scores(name), "student", "baseline", "teacher", label=label)


def excludes_zero(name: str, a: str, b: str, label: str = "mean") -> bool:
    low, high = row(name, a, b, label)["interval"]
    return low > 0 or high < 0


@lru_cache
def across(few: str, a: str, every: str, b: str) -> dict[str, Any]:
    """Arm a of one file compared with arm b of another that has the same test cases."""
    parts = [(scores(few), a, "a"), (scores(every), b, "b")]
    both = pd.concat([table[table["arm"] == arm].assign(arm=new) for table, arm, new in parts])
    return compare(both, "a", "b") | {"equivalence": equivalence(both, "a", "b", 0.01)}


def of_folds(name: str, a: str, b: str) -> list[float]:
    """A − b in Dice points of each fold."""
    difference = 100 * (per_case(scores(name), a) - per_case(scores(name), b))
    return [float(difference[fold["test"]].mean()) for fold in study(name)["split"]["folds"]]


def not_worse(name: str, a: str, b: str, label: str = "mean") -> bool:
    """Whether a is non-inferior to b by the test in the file."""
    return bool(row(name, a, b, label, "equivalence")["p_not_worse"] < 0.05)


GRID = "ablation-hippocampus-quick-8-labels"


def grid_cells() -> dict[tuple[float, float], float]:
    return tables.grid(scores(GRID), study(GRID)["settings"]["arms"])


def grid_dice(least: float, most: float = 1.0) -> list[float]:
    """Of the cells of the grid whose alpha lies between."""
    cells = grid_cells()
    return [dice for (_, alpha), dice in cells.items() if least <= alpha <= most]


def spread_of_temperature() -> float:
    """Largest less least Dice over the temperatures, averaged over alpha."""
    cells = grid_cells()
    means = [np.mean([v for (T, _), v in cells.items() if each == T]) for each, _ in cells]
    return float(max(means) - min(means))


def false_finds(name: str, arm: str, label: str) -> tuple[int, int]:
    """In how many runs over subjects without a label a network found it, and of how many."""
    return long_table.false_finds(scores(name), study(name)["absent"], arm, label)


def volume_of_finds(name: str, arm: str, label: str) -> float:
    """The mean volume of them in ml; NaN where it was not measured."""
    return long_table.false_volume(scores(name), study(name)["absent"], arm, label)


def finds_of(name: str, arm: str, label: str) -> int:
    """In how many runs over subjects without a label a network found it."""
    return false_finds(name, arm, label)[0]


def change_of_belief(
    name: str, a: str, b: str, metric: str = "ece"
) -> tuple[float, list[float] | None]:
    """A metric of calibration, a − b, paired by case, seeds averaged; with its interval."""
    one, other = (per_case(scores(name), arm, long_table.ALL, metric) for arm in (a, b))
    change = (one - other).to_numpy()
    return float(change.mean()), bootstrap_interval(change)


def of_seeds(name: str, a: str, b: str) -> list[float]:
    """A − b in Dice points of each seed."""
    one, other = (per_seed(scores(name), arm) for arm in (a, b))
    return [100 * float(one[seed] - other[seed]) for seed in one.index]


def imitation(name: str) -> dict[str, tuple[float, float]]:
    """Soft loss at the end of training, and Dice points above the arm's own teacher, of each arm.

    Of the first run, whose curve is in the file, and of arms with one kind of soft loss over all
    scans, so that their losses can be compared.
    """
    about, found = study(name), {}
    for arm, told in about["arms"].items():
        how = about["settings"]["arms"][arm]["distillation"]
        if how is None or how["soft_loss"] != "regional" or not how["unlabelled"]:
            continue
        soft = told["history"]["soft_loss"][-1]
        found[arm] = (soft, of_seeds(name, arm, how["teacher"])[0])
    return found


def half_width(values: list[float]) -> float:
    """Of the 95 % t interval of the mean of a few trainings."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def commits_of(found: dict[str, Any]) -> list[str]:
    """Of the code that made the runs; `+changes` where it was not all committed."""
    runs = [run for arm in found["arms"].values() for run in arm["runs"].values()]
    commits = {run.get("commit") or found["commit"] for run in runs}
    return sorted({f"{c[:10]}{'+changes' * c.endswith('+changes')}" for c in commits})

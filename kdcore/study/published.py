"""A reader's own numbers beside the published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.evaluation.tables import markdown
from kdcore.study.results import dice_of_seeds, load_results, where_present


def published_results(name: str, labelled: int) -> dict[str, Any] | None:
    """The committed results of an experiment and its number of labels, or None.

    `name` is that of the main job, such as "hippocampus-quick". Where the same runs were made
    again on another machine, `again` holds those results.

    They are part of the repository, not of the installed package.
    """
    folder = Path(__file__).parents[2] / "docs" / "results"
    path, again = (
        folder / f"evidence-{one}-{labelled}-labels.json"
        for one in (name, name.replace("quick", "cpu"))
    )
    if not path.is_file():
        return None
    found = load_results(path)
    return found | {"again": load_results(again)} if again != path and again.is_file() else found


def expected_range(values: list[float]) -> tuple[float, float] | None:
    """Where one more run of another seed lies with 95 % probability; None for one value.

    mean ± t · s · √(1 + 1/n), Student's t with n − 1 degrees of freedom: a prediction
    interval, wider than the interval of the mean, and much wider for few seeds.
    """
    if len(values) < 2:
        return None
    from scipy import stats

    count, mean, spread = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, count - 1) * spread * np.sqrt(1 + 1 / count)
    return float(mean - half), float(mean + half)


def beside_published(
    own: Mapping[str, Any], published: Mapping[str, Any], label: str, name: str
) -> str:
    """A Markdown table: Dice and differences of Dice here and as published, and whether they agree.

    Few seeds make the range of an arm's Dice wide, so wide that exchanged networks could
    lie in it; the differences between arms, of one seed each, are the sharper comparison.
    A scan whose reference lacks a label is left out for that label, since the arms would
    otherwise be averaged over different scans.

    Args:
        own: A results dict of the reader's runs.
        published: From `published_results`; runs made `again` count as further seeds.
        label: A label, a region or "mean".
        name: What the label is called.

    Returns:
        The table; of other test cases than the published ones a sentence instead, since
        nothing could be said to agree.
    """
    tested = [set(r.get("split", {}).get("test", ())) for r in (own, published)]
    if tested[0] != tested[1]:
        return (
            f"Not comparable: these are {len(tested[0])} test cases, the published ones "
            f"{len(tested[1])}, of which {len(tested[0] & tested[1])} are the same."
        )
    theirs, again = _of_seeds(published, label), published.get("again", {"arms": {}})
    for what, values in _of_seeds(again, label).items():
        theirs[what] = theirs.get(what, []) + values
    rows = [
        _compared(what, values, theirs[what], 0.0 if " − " not in what else -1.0)
        for what, values in _of_seeds(own, label).items()
        if what in theirs
    ]
    header = [f"Dice {name}", "here", "published", "expected of another seed", "within"]
    return markdown(header, rows) + _left_out(own)


def _left_out(results: Mapping[str, Any]) -> str:
    """A paragraph on the scans that do not count for every label; empty where all do."""
    absent = set().union(*results.get("absent", {}).values())
    told = (
        f"\n\nScored where the reference holds the label, which {len(absent)} scans lack; in "
        "tables of single arms a false find counts as 0."
    )
    return told if absent else ""


def _of_seeds(results: Mapping[str, Any], label: str) -> dict[str, list[float]]:
    """Dice of each arm's seeds, and of student − baseline and student − teacher."""
    arms = (where_present(results) if "absent" in results else results)["arms"]
    dice = {name: dice_of_seeds(arm, label) for name, arm in arms.items()}
    values = {name: list(of_seed.values()) for name, of_seed in dice.items()}
    for a, b in (("student", "baseline"), ("student", "teacher")):
        common = sorted(set(dice.get(a, ())) & set(dice.get(b, ())))
        if common:
            values[f"{a} − {b}"] = [dice[a][seed] - dice[b][seed] for seed in common]
    return values


def _compared(what: str, mine: list[float], theirs: list[float], least: float) -> list[str]:
    form = "{:.3f}" if least == 0 else "{:+.3f}"
    limits = expected_range(theirs)
    row = [what, ", ".join(map(form.format, mine)), f"{form.format(np.mean(theirs))}"]
    row[-1] += f" ({len(theirs)} runs)"
    if limits is None:
        return [*row, "–", "–"]
    low, high = max(limits[0], least), min(limits[1], 1.0)
    inside = all(low <= value <= high for value in mine)
    return [*row, f"{form.format(low)} … {form.format(high)}", "yes" if inside else "no"]

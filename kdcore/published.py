"""A reader's own numbers beside the published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.results import dice_of_seeds, load_results
from kdcore.tables import markdown


def published_results(name: str, labelled: int) -> dict[str, Any] | None:
    """The committed results of an experiment and its number of labels, or None.

    `name` is that of the main job, such as "hippocampus-quick".

    They are part of the repository, not of the installed package.
    """
    folder = Path(__file__).parents[1] / "docs" / "results"
    path = folder / f"evidence-{name}-{labelled}-labels.json"
    return load_results(path) if path.is_file() else None


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
    """A Markdown table: each arm's Dice here and as published, and whether they agree.

    Args:
        own: A results dict of the reader's runs.
        published: The one to compare with.
        label: A label, a region or "mean".
        name: What the label is called.
    """
    rows = []
    for arm in own["arms"]:
        if arm not in published["arms"]:
            continue
        mine = list(dice_of_seeds(own["arms"][arm], label).values())
        theirs = list(dice_of_seeds(published["arms"][arm], label).values())
        limits = expected_range(theirs)
        inside = limits is not None and all(limits[0] <= value <= limits[1] for value in mine)
        rows.append(
            [
                arm,
                ", ".join(f"{value:.3f}" for value in mine),
                f"{np.mean(theirs):.3f} ({len(theirs)} seeds)",
                "–" if limits is None else f"{limits[0]:.3f} … {limits[1]:.3f}",
                "–" if limits is None else "yes" if inside else "no",
            ]
        )
    header = ["arm", f"Dice {name}, here", "published", "expected of another seed", "within"]
    return markdown(header, rows)

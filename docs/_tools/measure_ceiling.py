"""Why the cross-modal student stops where it does: what T1 shows, and what labels could add.

Reads the cross-modal results, makes the test subjects again, and writes
`docs/results/cross-modal-ceiling.json` and `cross-modal-contrast.json`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from kdcore._files import write_json
from kdcore.data.cases import Case
from kdcore.evaluation import gap_closed, per_case, read_table, tables
from kdcore.evaluation.scores import Table
from kdcore.study.__main__ import from_arguments

RESULTS = Path(__file__).parents[1] / "results"
RING = 3  # voxels around the tumour


def study(labels: int) -> Table:
    return read_table(RESULTS / f"cross-modal-simulated-quick-{labels}-labels.csv.gz")


def contrast(case: Case, sequence: str) -> float:
    """|mean of the ring around the tumour − mean of the tumour| / the ring's deviation."""
    image = case.select([sequence]).image[..., 0]
    tumour = case.mask > 0
    brain = image > 0.3 * np.percentile(image, 95)
    ring = ndimage.binary_dilation(tumour, iterations=RING) & ~tumour & brain
    return float(abs(image[ring].mean() - image[tumour].mean()) / image[ring].std())


def ceiling(names: dict[str, str]) -> None:
    """How far the student goes from the baseline to the T1 network that has all labels."""
    rows, everything = [], study(160)
    everything = everything[everything["arm"] == "baseline"].assign(arm="all labels")
    for labels in (8, 20):
        both = pd.concat([study(labels), everything])
        for label in ("whole tumour", "2"):
            row = gap_closed(both, "student", "baseline", "all labels", label=label)
            share = f"{100 * row['share']:.0f} % ({tables.interval(row['interval'], 100, '.0f')})"
            rows.append([labels, names[label], share, row["cases"]])
    columns = ["labels", "of", "way from baseline to all labels (95 % interval)", "cases"]
    write_json(
        RESULTS / "cross-modal-ceiling.json", {"columns": columns, "rows": rows}, sealed=True
    )


def contrasts(cases: list[Case]) -> None:
    """Dice of the T1 network that has all labels, by what T1 shows of the tumour."""
    whole = per_case(study(160), "baseline", "whole tumour")
    dice = np.array([whole[c.case_id] for c in cases])
    shown = {name: np.array([contrast(c, name) for c in cases]) for name in ("T1", "FLAIR")}
    order = np.array_split(np.argsort(shown["T1"]), 3)
    rows = [
        [name, len(third), *(float(v[third].mean()) for v in (*shown.values(), dice))]
        for name, third in zip(("least", "middle", "most"), order, strict=True)
    ]
    correlation = stats.spearmanr(shown["T1"], dice)
    columns = ["contrast on T1", "subjects", "T1", "FLAIR", "Dice of the T1 network"]
    content = {"columns": columns, "rows": rows, "spearman": float(correlation.statistic)}
    content["p"] = float(correlation.pvalue)
    write_json(RESULTS / "cross-modal-contrast.json", content, sealed=True)


if __name__ == "__main__":
    job = from_arguments([], study="cross-modal")
    ceiling(job.task.scored)
    contrasts([case for case in job.take("test") if (case.mask > 0).any()])

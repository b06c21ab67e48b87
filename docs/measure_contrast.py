"""Why a T1 network misses tumours: Dice beside the contrast that T1 shows.

Reads the cross-modal results of the T1 network that was trained with all labels, makes the
test subjects again, and writes `docs/results/cross-modal-contrast.json`.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from kdcore import experiment, results
from kdcore.cases import Case
from kdcore.files import write_json
from kdcore.statistics import per_case

RESULTS = Path(__file__).parent / "results"
RING = 3  # voxels around the tumour


def contrast(case: Case, sequence: str) -> float:
    """(mean of the ring around the tumour − mean of the tumour) / the ring's deviation."""
    image = case.select([sequence]).image[..., 0]
    tumour = case.mask > 0
    brain = image > 0.3 * np.percentile(image, 95)
    ring = ndimage.binary_dilation(tumour, iterations=RING) & ~tumour & brain
    return float(abs(image[ring].mean() - image[tumour].mean()) / image[ring].std())


def main() -> None:
    study = results.load_results(RESULTS / "cross-modal-simulated-quick-160-labels.json")
    whole = per_case(study, "baseline", "whole tumour")
    job = experiment.from_arguments([], study="cross-modal")
    cases = [c for c in job.take("test") if (c.mask > 0).any()]
    dice = np.array([whole[c.case_id] for c in cases])
    shown = {name: np.array([contrast(c, name) for c in cases]) for name in ("T1", "FLAIR")}
    order = np.array_split(np.argsort(shown["T1"]), 3)
    names = ("least", "middle", "most")
    rows = [
        [name, len(third), *(float(v[third].mean()) for v in (*shown.values(), dice))]
        for name, third in zip(names, order, strict=True)
    ]
    correlation = stats.spearmanr(shown["T1"], dice)
    columns = ["contrast on T1", "subjects", "T1", "FLAIR", "Dice of the T1 network"]
    content = {"columns": columns, "rows": rows, "spearman": float(correlation.statistic)}
    content["p"] = float(correlation.pvalue)
    write_json(RESULTS / "cross-modal-contrast.json", content)
    print(content)


if __name__ == "__main__":
    main()

"""The main job with several seeds: `nox -s seeds -- --seeds 10`. Goes on where it stopped.

One teacher (seed 0), then student and baseline with each seed. A seed decides the weights at
the start, the order of the batches and the augmentation; the volumes stay the same.
"""

import argparse
import sys
from pathlib import Path

from kdcore import config, experiment, results
from kdcore.runs import Run

PAIRS = [("student", "baseline"), ("student", "teacher"), ("teacher", "baseline")]
COLLAPSED = 0.05  # mean foreground Dice on test below this is a network that found nothing


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, then write one results file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", default=None, help="results file")
    options, rest = parser.parse_known_args(arguments if arguments is not None else sys.argv[1:])
    job = experiment.from_arguments(rest)
    runs: list[Run] = []
    for seed in range(options.seeds):
        for arm in config.ARMS if seed == 0 else ("student", "baseline"):
            runs.append(experiment.train(job, arm, seed))
            print(f"seed {seed} {arm:>9}: {runs[-1].folder.name}", flush=True)
    summary = results.collect(
        study=f"{job.config.data}-{job.tier}-{options.seeds}-seeds",
        runs=runs,
        pairs=PAIRS,
        data=config.DATA,
        config=config.describe(job.config),
        volume=config.VOLUME,
    )
    summary["collapsed"] = results.collapsed(summary, COLLAPSED)
    path = Path(options.out or job.root / "seeds.json")
    results.save_results(summary, path)
    print(results.seed_table(summary), results.comparison_table(summary), sep="\n\n")
    print(f"collapsed runs: {summary['collapsed'] or 'none'}\nresults: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

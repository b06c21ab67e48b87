"""The command line that all examples and studies share."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from kdcore.study.experiment import Experiment
from kdcore.study.settings import STUDIES


def from_arguments(arguments: Sequence[str] | None = None, study: str = "main") -> Experiment:
    """The experiment that the command line asks for (in a notebook: the environment).

    `--data NAME --tier smoke|quick|full --data-dir FOLDER --runs FOLDER --seed N`; they default
    to KDCORE_DATASET, KDCORE_TIER, none, KDCORE_RUNS and 0. `--labelled`, `--validation` and
    `--test` change the numbers of cases, for data of your own.
    """
    parser = argparse.ArgumentParser(description=f"kdcore: {study}")
    add_arguments(parser, study)
    if arguments is None:
        arguments = [] if "ipykernel" in sys.modules else sys.argv[1:]
    return from_options(parser.parse_args(arguments), study)


def add_arguments(parser: argparse.ArgumentParser, study: str) -> None:
    """The arguments that every experiment of a study understands."""
    get, data = os.environ.get, list(STUDIES[study])
    wanted = get("KDCORE_DATASET")
    parser.add_argument("--data", choices=data, default=wanted if wanted in data else data[0])
    parser.add_argument(
        "--tier", choices=["smoke", "quick", "full"], default=get("KDCORE_TIER", "quick")
    )
    parser.add_argument("--data-dir", default=None, help="folder that holds the data")
    parser.add_argument("--runs", default=get("KDCORE_RUNS", "runs"), help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    for part in ("labelled", "validation", "test"):
        parser.add_argument(f"--{part}", type=int, default=None, help=f"number of {part} cases")


def from_options(options: argparse.Namespace, study: str) -> Experiment:
    """The experiment of parsed arguments."""
    config = STUDIES[study][options.data][options.tier]
    counts = {f"num_{part}": getattr(options, part) for part in ("labelled", "validation", "test")}
    config = replace(config, **{k: n for k, n in counts.items() if n is not None})
    name = f"{options.data}-{options.tier}"
    name = name if study == "main" else f"{study}-{name}"
    return Experiment(config, name, options.runs, options.data_dir, options.seed)

"""Tables of what is measured once and is no study: JSON files of a few rows in docs/results."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import softmax
from studies import RESULTS, half_width, scores

from kdcore._files import read_json
from kdcore.evaluation.scores import arms_of, per_seed
from kdcore.evaluation.tables import markdown
from kdcore.losses import kd_loss

WEIGHTS = Path(__file__).parents[2] / "weights/weights.json"
PLAYGROUND = Path(__file__).parents[2] / "assets/playground"
NETWORKS = ("teacher", "student", "baseline")


def rows(name: str) -> str:
    """A file `{"columns": [...], "rows": [[...], ...]}` as it is."""
    content = read_json(RESULTS / f"{name}.json")
    cells = [[_cell(value) for value in row] for row in content["rows"]]
    return markdown(content["columns"], cells)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def torture() -> str:
    """What was done and what held, and how long all of it took."""
    told = read_json(RESULTS / "torture.json")
    took = f"{told['seconds'] / 60:.0f} minutes on {told['hardware']['cores']} cores"
    return markdown(told["columns"], [*told["rows"], ["all of it", "", "", took]])


def quantity(file: str, name: str) -> str:
    """One row of a benchmark's file, with its unit."""
    found = next(row for row in read_json(RESULTS / f"{file}.json")["rows"] if row["name"] == name)
    unit = "" if found["unit"] == "ratio" else f" {found['unit']}"
    return f"{found['median']:.3g}{unit}"


def bench() -> str:
    """The rows, and which parts were measured on which processor."""
    measured = read_json(RESULTS / "bench.json")["rows"]
    table = [
        [
            row["name"],
            row["unit"],
            *(f"{row[key]:.3g}" for key in ("min", "median", "max")),
            row.get("target", ""),
        ]
        for row in measured
    ]
    parts: dict[str, dict[str, None]] = {}
    for row in measured:
        parts.setdefault(row["processor"], {})[row["part"]] = None
    told = "; ".join(f"{processor}: {', '.join(names)}" for processor, names in parts.items())
    header = ["row", "unit", "min", "median", "max", "target"]
    return f"{markdown(header, table)}\n\nMeasured on {told}."


def replication() -> str:
    """The runs that were made twice: on another backend and machine, from other weights."""
    table = []
    for (labels, arm), values in sorted(made_twice().items()):
        cpu, gpu = np.mean(values, axis=0)
        changes = [100 * (second - first) for first, second in values]
        numbers = [f"{cpu:.3f}", f"{gpu:.3f}", f"{100 * (gpu - cpu):+.2f}"]
        numbers.append(f"{min(changes):+.2f} … {max(changes):+.2f}")
        table.append([str(labels), arm, str(len(values)), *numbers])
    header = ["labels", "arm", "runs", "TensorFlow, CPU", "JAX, GPU", "difference in points"]
    return markdown([*header, "of single runs"], table)


@lru_cache
def made_twice() -> dict[tuple[int, str], list[tuple[float, float]]]:
    """Mean Dice of each such run on either machine, by number of labels and arm."""
    pairs: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for labels in (8, 120):
        first, second = (
            scores(f"evidence-hippocampus-{name}-{labels}-labels") for name in ("cpu", "quick")
        )
        for arm in arms_of(first):
            one, other = per_seed(first, arm), per_seed(second, arm)
            pairs[labels, arm] = [(one[seed], other[seed]) for seed in one.index]
    return pairs


def largest_change() -> float:
    """Of a run that was made twice, in Dice points."""
    runs = [run for values in made_twice().values() for run in values]
    return max(100 * abs(first - second) for first, second in runs)


def luck_of_training(labels: int) -> float:
    """Half the 95 % interval of a difference of two means of three trainings, in Dice points.

    From the runs that were made twice: how much student − baseline and teacher − baseline of one
    seed changed. A change has √2 times the standard deviation of one such difference.
    """
    twice = made_twice()
    runs = np.array([twice[labels, arm] for arm in ("teacher", "student")])
    differences = 100 * (runs - np.array(twice[labels, "baseline"]))
    changes = differences[..., 1] - differences[..., 0]
    return float(1.96 * np.sqrt(np.mean(changes**2) / 2 / 3))


def weights() -> str:
    table = [
        [
            f"[{name}]({name})",
            str(entry["labels"]),
            f"{entry['params']:,}",
            f"{entry['test_dice']:.3f}",
            entry["file_digest"][:12],
        ]
        for name, entry in read_json(WEIGHTS).items()
    ]
    return markdown(["file", "labels", "parameters", "mean Dice on test", "SHA-256"], table)


def lab() -> str:
    """The worked example of the temperature lab: one voxel at four temperatures."""
    teacher, student = np.array([[6.0, 2.0, -4.0]]), np.array([[6.0, 2.0, -8.0]])
    table = []
    for T in (1.0, 2.0, 4.0, 8.0):
        p, q = (softmax(z / T, axis=-1)[0] for z in (teacher, student))
        entropy, loss = -(p * np.log(p)).sum(), float(kd_loss(teacher, student, T))
        gradient = float(np.linalg.norm(T * (q - p)))
        probabilities = [" · ".join(f"{x:.3f}" for x in one) for one in (p, q)]
        numbers = [loss / T**2, loss, gradient / T**2, gradient]
        table.append([f"{T:g}", *probabilities, f"{entropy:.3f}", *(f"{x:.3g}" for x in numbers)])
    header = ["T", "teacher p", "student q", "entropy of p", "KL", "T² KL"]
    return markdown([*header, "gradient", "T² gradient"], table)


LEGEND = (
    "Above what each network says of every pair of intensities, T1 to the right, FLAIR upwards; "
    'below of the slice. Colours: <i class="kd-swatch kd-class-0"></i>tissue, '
    '<i class="kd-swatch kd-class-1"></i>oedema, <i class="kd-swatch kd-class-2"></i>core, paler '
    "where it doubts. Ringed dots have a label."
)


def playground_pictures() -> str:
    """Each step of the playground's story: what to watch, and how it ends with the first seed."""
    parts = [LEGEND]
    for number, step in enumerate(read_json(PLAYGROUND / "story.json"), 1):
        parts += [f"**{number} · {step['title']}.** {step['watch']}", _step(number)]
    return "\n\n".join(parts)


def _step(number: int, root: str = "") -> str:
    title = read_json(PLAYGROUND / "story.json")[number - 1]["title"]
    alt = f"Teacher, student and baseline at the end of step {number}, {title}."
    return f"![{alt}]({root}assets/playground/step-{number}.webp){{ loading=lazy }}"


def playground_scene(number: int) -> str:
    """A step of the story within a page of a folder; without JavaScript its picture."""
    picture = f"{_step(number, '../')}\n\n{LEGEND}"
    return (
        f'<div class="kd-playground kd-scene" data-kd-playground="{number}" markdown="1">\n'
        f'<div class="kd-pictures" markdown="1">\n\n{picture}\n\n</div>\n</div>'
    )


def playground_table() -> str:
    """What kdcore made of each step with ten seeds; differences in points, with a t interval."""
    table = []
    for number, step in enumerate(read_json(PLAYGROUND / "kdcore.json"), 1):
        means = [
            f"{100 * np.mean([row[who] for row in step['accuracy']]):.1f} %" for who in NETWORKS
        ]
        table.append([f"{number} · {step['title']}", *means, playground_lead(number)])
    return markdown(["step", *NETWORKS, "student − baseline"], table)


def playground_lead(number: int) -> str:
    """Student − baseline at the end of a step, over ten seeds of kdcore."""
    rows_ = read_json(PLAYGROUND / "kdcore.json")[number - 1]["accuracy"]
    lead = [100 * (row["student"] - row["baseline"]) for row in rows_]
    return f"{np.mean(lead):+.1f} ± {half_width(lead):.1f}".replace("-", "−")

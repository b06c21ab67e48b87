"""Numbers, tables and plots of the pages, read from docs/results when the site is built.

A page writes `{$ dice("hippocampus-quick", "student") $}` where a number is to stand, and
`{$ check(...) $}` where its prose claims one. What cannot be read, or is not so, fails the build
with a message that names the page.
"""

import math
import os
import posixpath
import sys
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # the smallest; nothing is computed with it
os.environ.setdefault("MPLBACKEND", "agg")
ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import lessons  # noqa: E402
import measured  # noqa: E402
from jinja2 import Environment, StrictUndefined  # noqa: E402
from measured import (  # noqa: E402
    bench,
    lab,
    largest_change,
    luck_of_training,
    playground_lead,
    playground_pictures,
    playground_scene,
    playground_table,
    quantity,
    replication,
    rows,
    torture,
    weights,
)
from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402
from studies import (  # noqa: E402
    across,
    average,
    best,
    budgets,
    change_of_belief,
    commits_of,
    excludes_zero,
    false_finds,
    finds_of,
    forget,
    gap,
    grid_dice,
    half_width,
    not_worse,
    of_folds,
    of_seeds,
    patients,
    points,
    published,
    row,
    scores,
    spread_of_temperature,
    study,
    validation,
    volume_of_finds,
)

from kdcore._files import read_json  # noqa: E402
from kdcore.evaluation import figures, tables  # noqa: E402

HOME = ROOT / "docs" / "assets" / "home"

PAGE = Environment(
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701
    variable_start_string="{$",
    variable_end_string="$}",
    block_start_string="{@",
    block_end_string="@}",
    comment_start_string="{@@",
    comment_end_string="@@}",
    keep_trailing_newline=True,
)


def on_pre_build(config: MkDocsConfig) -> None:
    forget()
    lessons.slice_.cache_clear()
    measured.made_twice.cache_clear()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def figure(kind: str, *arguments: Any, alt: str) -> str:
        return plot(kind, arguments, alt, page, config, files)

    try:
        address = os.environ.get("REPO_URL")  # unset: nothing that needs it is shown
        return PAGE.from_string(markdown).render(SCOPE, figure=figure, repository=address)
    except Exception as error:
        raise PluginError(f"{page.file.src_uri}: {type(error).__name__}: {error}") from error


def names(name: str) -> Mapping[str, str]:
    """What the scored labels and regions of a study are called."""
    data = study(name)["data"]
    return {**data["labels"], **{region: region for region in data.get("regions", {})}}


def dice(name: str, arm: str, label: str = "mean") -> str:
    """Mean Dice over the test cases, seeds averaged."""
    return f"{average(name, arm, label):.3f}"


def thousand(name: str, arm: str) -> str:
    """An arm's parameters."""
    return f"{study(name)['arms'][arm]['params'] / 1000:.0f} thousand"


def difference(name: str, a: str, b: str, label: str = "mean") -> str:
    """A − b in Dice points, with its 95 % interval."""
    return told(row(name, a, b, label))


def told(found: Mapping[str, Any], factor: float = 100) -> str:
    """A difference in Dice points (or another unit), with its 95 % interval."""
    limits = tables.interval(found["interval"], factor, "+.2f")
    return f"{factor * found['difference']:+.2f} (95 % interval {limits})".replace("-", "−")


def check(holds: bool) -> str:
    """Nothing, if the sentence before it is true of the file."""
    if not holds:
        raise ValueError("a claim in the prose is not what the results file says.")
    return ""


def provenance(name: str) -> str:
    """Where the numbers come from, in one paragraph."""
    s = study(name)
    file = name.partition("@")[0]
    counts = [len(arm["seeds"]) for arm in s["arms"].values()]
    least, most = min(counts), max(counts)
    seeds = (
        "one seed"
        if most == 1
        else f"{most} seeds"
        if least == most
        else f"{least} to {most} seeds"
    )
    used = {k: v for k, v in s["versions"].items() if k in ("python", "keras", s["backend"])}
    versions = ", ".join(f"{k} {v}" for k, v in used.items())
    machine = [*s["hardware"]["accelerators"], s["hardware"]["processor"]]
    commits = ", ".join(f"`{commit}`" for commit in commits_of(s))
    return (
        f"{s['data']['name']} ({s['data']['licence']}); {len(s['split']['test'])} test cases, "
        f"{seeds} an arm; {', '.join(machine)}, {s['hardware']['cores']} "
        f"cores; {versions}; code of commit {commits}. "
        f"[Scores]({file}.csv.gz) of every case and seed, [the rest]({file}.json)."
    )


def arms(name: str, *only: str) -> str:
    table = scores(name)
    chosen = table[table["arm"].isin(only)] if only else table
    return tables.arm_table(chosen, study(name)["arms"], names(name))


def comparisons(name: str, *only: str) -> str:
    """Those in the file, or those among some arms; p, Holm is adjusted over all."""
    found = study(name)["comparisons"]
    chosen = [row for row in found if not only or {row["a"], row["b"]} <= set(only)]
    return tables.comparison_table(chosen, names(name))


def equivalences(name: str) -> str:
    return tables.equivalence_table(study(name)["equivalence"], names(name))


def grid(name: str) -> str:
    return tables.grid_table(scores(name), study(name)["settings"]["arms"])


def seeds(name: str, label: str = "mean") -> str:
    return tables.seed_table(scores(name), label)


def beliefs(name: str) -> str:
    return tables.calibration_table(scores(name), study(name)["arms"])


def finds(name: str) -> str:
    """A table: in how many runs each arm found what the reference lacks, and how much of it."""
    s, called = study(name), names(name)
    labels = [label for label, cases in s["absent"].items() if cases]

    def found(arm: str, label: str) -> str:
        runs = "{} of {}".format(*false_finds(name, arm, label))
        volume = volume_of_finds(name, arm, label)
        return runs if math.isnan(volume) else f"{runs}, {volume:.1f} ml"

    rows = [[arm, *(found(arm, label) for label in labels)] for arm in s["arms"]]
    return tables.markdown(["arm", *(called[label] for label in labels)], rows)


def belief(name: str, a: str, b: str, metric: str = "ece") -> str:
    """A metric of calibration, a − b, in thousandths, with its 95 % interval."""
    change = change_of_belief(name, a, b, metric)
    return told(dict(zip(("difference", "interval"), change, strict=True)), 1000)


def listed(values: Iterable[float]) -> str:
    """Dice points, one after the other."""
    return ", ".join(f"{value:+.2f}".replace("-", "−") for value in values)


def of_trainings(values: list[float]) -> str:
    """Mean over trainings instead of test cases, with its 95 % t interval, in Dice points."""
    mean = sum(values) / len(values)
    return f"{mean:+.2f} ± {half_width(values):.2f}".replace("-", "−")


def home_facts(job: str, region: str, smaller: str, hard: str) -> str:
    """Headline numbers, each with what is needed to judge it.

    Args:
        job: A study whose student sees less than its teacher.
        region: What the job's networks are compared in.
        smaller: One whose student is smaller than its teacher.
        hard: One with little to gain.
    """
    teacher, student = (study(smaller)["arms"][arm] for arm in ("teacher", "student"))
    facts = [
        (
            f"{points(job, 'student', 'baseline', region):+.1f} Dice points",
            "over the same network without a teacher, on simulated scans: the student sees one MRI "
            f"sequence, its teacher four. {limits_of_study(job, 'student', 'baseline', region)}.",
        ),
        (
            f"{teacher['params'] / student['params']:.0f} times smaller",
            f"than its teacher, at {signed(points(smaller, 'student', 'teacher'))} Dice points "
            f"from it, on real scans. {limits_of_study(smaller, 'student', 'teacher')}.",
        ),
        (
            f"{points(hard, 'student', 'baseline'):+.1f} Dice points",
            'where there is little to gain: <a href="#the-hard-case">the hard case</a>. '
            f"{limits_of_study(hard, 'student', 'baseline')}.",
        ),
    ]
    boxes = (f"<div><p>{value}</p><p>{text}</p></div>" for value, text in facts)
    return f'<div class="kd-facts">{"".join(boxes)}</div>'


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def limits_of_study(name: str, a: str, b: str, label: str = "mean") -> str:
    """The interval of a difference, and what it is over."""
    s, found = study(name), row(name, a, b, label)
    who = "patients" if "patients" in s else "scans"
    of = "interval_seeds" if found.get("interval_seeds") else "interval"
    over = who if of == "interval" else f"{who} and trainings"
    labelled, trainings = s["settings"]["num_labelled"], len(s["arms"][a]["seeds"])
    return (
        f"95 % interval over {over} {limits(found, of, '+.1f')}; {labelled} labelled {who}, "
        f"{found['cases']} for the test, {trainings} trainings"
    )


def home_scans(job: str, region: str) -> str:
    """Three test scans, a row each: what the student sees, and what each network finds."""
    about = read_json(HOME / "scans.json")
    titles = ("What the student sees", "Teacher", "Student", "Baseline")
    cells = [f"<p>{title}</p>" for title in titles]
    for number, scan in enumerate(about["scans"], 1):
        student, baseline = (_home_scan(scan, arm) for arm in ("student", "baseline"))
        slider = f"Student or baseline, scan {number}"
        cells += [_home_scan(scan, "t1"), _home_scan(scan, "teacher")]
        cells.append(f'<div class="kd-pair" data-kd-swipe="{slider}">{student}{baseline}</div>')
    present = f"{job}@present"
    means = [
        f"{arm} {about['mean_dice'][arm]:.2f} ({average(present, arm, region):.2f})"
        for arm in ("teacher", "student", "baseline")
    ]
    return (
        f'<figure><div class="kd-scans">{"".join(cells)}</div><figcaption>'
        '<i class="kd-swatch kd-found"></i>found, <i class="kd-swatch kd-missed"></i>missed, '
        '<i class="kd-swatch kd-invented"></i>not there. The teacher sees four sequences and is '
        "drawn over FLAIR, student and baseline see T1 alone. Three of "
        f"{about['cases']} test scans with a tumour, by how much the student gains: of all scans a "
        "quarter gains less than the first, half less than the second, three quarters less than "
        f"the third. Dice of the {about['region']} in the whole scan. One run of the job; its "
        f"mean Dice, and in brackets that of the published trainings: {', '.join(means)}. "
        f"The data are {about['data']} ({about['licence']}), no patient's.</figcaption></figure>"
    )


def _home_scan(scan: Mapping[str, Any], panel: str) -> str:
    dice = scan["dice"].get(panel)
    told = "T1" if dice is None else f"Dice {dice:.2f}"
    alt = "A T1 slice" if dice is None else f"The tumour by the {panel}, {told}"
    return (
        f'<div><img src="assets/home/{scan["name"]}-{panel}.webp" alt="{alt}" '
        f'width="280" height="320" loading="lazy"><span>{told}</span></div>'
    )


def limits(found: Mapping[str, Any], of: str = "interval", form: str = "+.2f") -> str:
    """An interval in Dice points; `of` "interval_seeds" is over trainings as well as cases."""
    return tables.interval(found[of], 100, form).replace("-", "−")


def budget(prefix: str, label: str = "mean", *arms: str) -> str:
    """Over the numbers of labels at which there is a teacher."""
    studies = [(scores(name), study(name)) for name in budgets(prefix)]
    taught = [(table, about) for table, about in studies if about["gap_closed"]]
    return tables.budget_table(taught, label, arms or None)


def plot(
    kind: str, arguments: tuple[Any, ...], alt: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Markdown of a plot in a light and in a dark form."""
    stem = "-".join([kind, *map(str, arguments)]).replace(" ", "-").replace("@", "-")
    images = []
    for scheme in ("light", "dark"):
        uri = f"assets/plots/{stem}-{scheme}.svg"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=drawn(kind, arguments, scheme)))
        where = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        images.append(f"![{alt}]({where}#only-{scheme})")
    return "".join(images)


def drawn(kind: str, arguments: tuple[Any, ...], scheme: str) -> bytes:
    """An SVG, the same bytes for the same numbers."""
    from matplotlib import pyplot

    style = lessons.STYLE if kind in lessons.DRAWN else {}
    with pyplot.rc_context({"svg.hashsalt": kind, **style}):
        figure = PLOTS[kind](*arguments)
        figures.recolor(figure, scheme)
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return buffer.getvalue()


PLOTS = {
    "budgets": lambda prefix, *arms: figures.label_budgets(
        {study(name)["settings"]["num_labelled"]: scores(name) for name in budgets(prefix)},
        arms=arms or None,
    ),
    "differences": lambda name, a, b, label="mean": figures.case_differences(
        scores(name), a, b, label
    ),
    "arms": lambda name, label="mean": figures.dots(scores(name), label),
    "curves": lambda name, *arms: figures.loss_curves(
        {arm: study(name)["arms"][arm]["history"] for arm in arms}
    ),
    **lessons.DRAWN,
}
_OFFERED = (
    study, published, budgets, dice, average, points, difference, excludes_zero, check, provenance,
    arms, comparisons, equivalences, seeds, beliefs, budget, home_facts, home_scans, thousand,
    finds_of, row, across, told, not_worse, grid, grid_dice, spread_of_temperature, of_folds,
    largest_change, luck_of_training, finds, belief, best, change_of_belief, of_seeds, of_trainings,
    patients, gap, half_width, limits, listed, validation, rows, torture, bench, quantity,
    replication, weights, lab, lessons.lesson,
    playground_lead, playground_pictures, playground_scene, playground_table,
)  # fmt: skip
SCOPE = {function.__name__: function for function in _OFFERED}

# %% [markdown]
# # 5 · The baseline, and the comparison
#
# The question is not whether the student is good but whether it is better *than the same
# network trained without the teacher*: same weights at the start, same optimizer, same
# number of steps, settings chosen on the same validation scans with the same effort.
#
# **You will learn** how two networks are compared scan by scan, what the interval says and what
# it leaves out, and how to see whether the teacher teaches.
#
# 4 to 10 minutes on 2 CPU cores.

# %%
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import pandas as pd
from settings import from_command_line

import kdcore
from kdcore.evaluation import (
    absent_labels,
    beside_published,
    describe,
    fidelity,
    figures,
    table_of,
    tables,
    where_present,
    write_report,
    write_results,
)

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
size = settings.student
networks = {
    "teacher": keras.saving.load_model(settings.need("teacher/network.keras", "02_teacher.py")),
    "student": keras.saving.load_model(settings.need("student/network.keras", "04_student.py")),
}

# %% [markdown]
# ## The baseline
#
# The student's network, start, sampling and number of steps, and no teacher: it
# is trained on the labelled scans as in example 2. The steps are what counts, not the epochs: a
# batch of the student is three quarters unlabelled, a batch of the baseline is all labelled.

# %%
batches = kdcore.Batches(
    [case.select(size.sequences) for case in split.take(cases, "labelled")],
    shape=size.shape,
    batch_size=size.batch_size,
    foreground_share=size.foreground_share,
    augmentation=settings.augmentation,
    num_batches=size.steps_per_epoch,
    seed=settings.seed,
)
keras.utils.set_random_seed(settings.seed)
baseline = kdcore.unet(
    size.input_shape, settings.num_classes, filters=size.filters, depth=settings.depth
)
rate = kdcore.warmup_cosine(peak=size.learning_rate, steps=size.steps)
baseline.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
networks["baseline"] = kdcore.fit(
    baseline, batches, size.epochs, folder=settings.folder / "baseline", split=split, verbose=2
)

# %% [markdown]
# ## Is the teacher teaching?
#
# Distillation fails silently, so it is checked: on some of the scans the student learned from
# (does it follow its teacher at all?) and on validation scans. Here a scan without a tumour counts
# 0 where a network finds one; the tables leave such scans out.

# %%
learned = [case.select(size.sequences) for case in split.take(cases, "unlabelled")[:20]]
soft_targets = kdcore.SoftTargets.open(settings.folder / "soft-targets")
validation = split.take(cases, "validation")
report = kdcore.check_teaching(
    networks["teacher"],
    networks["student"],
    [case.select(size.sequences) for case in validation],
    teacher_cases=[case.select(settings.teacher.sequences) for case in validation],
    baseline=networks["baseline"],
    training=fidelity(networks["student"], learned, soft_targets, temperature=2.0),
    temperature=2.0,
    split=split,
)
print(report)

# %% [markdown]
# ## The test scans, once
#
# Every number goes into one long table: a row for each arm, scan, label and metric. A scan
# without a structure has no Dice for it, so it is left out there.

# %%
seen = dict.fromkeys(networks, settings.student.sequences)
seen["teacher"] = settings.teacher.sequences
test = split.take(cases, "test")
parts = []
for name, network in networks.items():
    as_seen = [case.select(seen[name]) for case in test]
    scores = kdcore.evaluate(network, as_seen, regions=settings.regions, split=split)
    parts.append(table_of(scores, study=settings.name, arm=name, seed=settings.seed))
absent = absent_labels(test, settings.labels, settings.regions)
table = where_present(pd.concat(parts, ignore_index=True), absent)
parameters = {name: network.count_params() for name, network in networks.items()}
print(settings.title)
print(tables.summary(table, parameters))

# %% [markdown]
# Every scan is segmented by both networks, so their *difference* is known scan by
# scan. The interval says how far the mean difference would move with other scans like
# these, for this one seed; it does not contain the luck of the training.

# %%
gain = kdcore.compare(table, "student", "baseline")
worth = kdcore.compare(table, "teacher", "baseline")
print(tables.comparison_table([gain, worth]))

figure = figures.case_differences(table, "student", "baseline")
figure.set_label("Student minus baseline of each test scan, sorted, and their mean.")
figure.savefig(settings.figures / "differences.png", dpi=120)
plt.show()

# %% [markdown]
# ## Beside the published numbers
#
# Another seed, other labelled scans, another processor: your numbers will differ from the
# published ones. The published seeds say by how much a further seed is expected to. They are read
# from `docs/results` of the checkout, for the default job and the hippocampus with 8 labels.

# %%
names = {"simulated-quick": "tutorial-simulated-quick-8-labels"}
names["hippocampus-quick"] = "evidence-hippocampus-quick-8-labels"
published = Path("docs/results") / f"{names.get(settings.name)}.csv.gz"
if published.exists():
    beside = beside_published(table, published, absent=absent)
else:
    beside = "Nothing is published for these data and this tier."
print(beside)

# %% [markdown]
# ## Good, median and bad
#
# The student's best, median and worst test scan.

# %%
rows = table[(table["arm"] == "student") & (table["metric"] == "dice")]
rows = rows[rows["label"].isin(settings.labels)]
ranked = rows.groupby("case")["value"].mean().dropna().sort_values()
chosen = {name: ranked.index[int(q * (len(ranked) - 1))] for name, q in
          {"good": 1.0, "median": 0.5, "bad": 0.0}.items()}  # fmt: skip
by_id = {case.case_id: case for case in test}
masks = {
    name: {
        case_id: kdcore.predict_mask(network, by_id[case_id].select(seen[name]))
        for case_id in chosen.values()
    }
    for name, network in networks.items()
}
shown = {f"{name}: {ranked[i]:.2f}": by_id[i].select(size.sequences) for name, i in chosen.items()}
overlays = figures.overlays(shown, masks, settings.labels)
overlays.set_label(
    "The student's best, median and worst test scan: image, reference, and what teacher, student "
    "and baseline make of it."
)
overlays.savefig(settings.figures / "overlays.png", dpi=120)
plt.show()

# %% [markdown]
# ## In three sentences

# %%
few, many = len(split.labelled), len(split.unlabelled)
told = [
    f"The teacher ({', '.join(seen['teacher'])}) learned from {few} labelled scans; beside the "
    f"student's network trained on the same scans it is worth "
    f"{100 * worth['difference']:+.1f} Dice points.",
    f"The student ({', '.join(seen['student'])}) learned from the same {few} scans and from what "
    f"the teacher says of {many} more that nobody labelled: {gain['mean_a']:.3f} Dice, where the "
    f"same network without a teacher reaches {gain['mean_b']:.3f} "
    f"({100 * gain['difference']:+.1f} points).",
    "Open next: example 6 for what a teacher is worth in labels, example 7 for a case where "
    "distillation does not pay.",
]
print(*told, sep="\n")

# %%
about = describe(networks, study=settings.name, data=settings.title, split=split,
                 licence=settings.licence,
                 settings=settings.recorded, absent=absent)  # fmt: skip
path = write_results(table, about, settings.folder / "results.csv")
page = write_report(
    settings.folder / "report.html",
    f"Teacher, student and baseline: {settings.title}",
    [*told, tables.summary(table, parameters), figure, overlays, beside, str(report)],
)
print(f"results: {path}\nreport:  {page}\nfigures: {settings.figures}")
print(f"runs:    {settings.folder}")

# %% [markdown]
# ## Exercises
#
# 1. The interval of a difference excludes 0. Does that mean that another run of the student would
#    win, too?
#
# <details><summary>Solution</summary>
#
# No. It is about other scans for *these* networks. Another seed gives other networks, and how far
# seeds lie apart is a different spread: [results](../results/index.md) list each.
#
# </details>
#
# 2. The intervals of two arms overlap. Are the arms equal?
#
# <details><summary>Solution</summary>
#
# Not necessarily. Both segment the same scans, and an easy scan is easy for both. The spread
# between scans, which makes each interval wide, cancels in the difference.
#
# </details>
#
# 3. Train everything with another seed (`--seed 1`) and compare again. What changed besides the
#    weights at the start?
#
# <details><summary>Solution</summary>
#
# The order of the batches, the augmentation, and which training scans carry the labels. Validation
# and test scans stay.
#
# </details>

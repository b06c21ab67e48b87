# %% [markdown]
# # 6 · How many labels is a teacher worth?
#
# Examples 1 to 5 used a few labelled scans. Here the same three networks are trained
# once more with *every* training scan labelled, and both ends are set beside each other. What a
# student gains from unlabelled scans must shrink as fewer scans are unlabelled; the
# question is what is left at the end, and how near the beginning comes to it.
#
# **You will learn** how to read a label-budget curve, and what a teacher is worth in labels.
#
# 8 to 12 minutes on 2 CPU cores after examples 1 to 5.

# %%
import keras
import matplotlib.pyplot as plt
import pandas as pd
from settings import from_command_line

import kdcore
from kdcore.evaluation import absent_labels, figures, table_of, tables, where_present

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
few, everything = len(split.labelled), len(split.labelled) + len(split.unlabelled)
everything_split = settings.split(cases, all_labelled=True)
assert everything_split.test == split.test
labelled = everything_split.take(cases, "labelled")
folder = settings.folder / "all-labels"
print(f"{settings.title}: {few} of {everything} training scans labelled, then all of them")

# %% [markdown]
# ## Teacher, student and baseline with all labels
#
# The same three trainings as before. There are no unlabelled scans left: the student still gets
# its teacher's soft targets of the labelled ones, in every slice of its batches.

# %%
networks, seen = {}, {}
for name in ("teacher", "baseline", "student"):
    size = settings.teacher if name == "teacher" else settings.student
    seen[name] = size.sequences
    soft_targets = None
    if name == "student":
        soft_targets = kdcore.SoftTargets.write(
            networks["teacher"], labelled, folder / "soft-targets", split=everything_split
        )
    batches = kdcore.Batches(
        [case.select(size.sequences) for case in labelled],
        shape=size.shape,
        batch_size=size.batch_size,
        soft_targets=soft_targets,
        foreground_share=size.foreground_share,
        augmentation=settings.augmentation,
        num_batches=size.steps_per_epoch,
        seed=settings.seed,
    )
    keras.utils.set_random_seed(settings.seed)
    model = kdcore.unet(
        size.input_shape, settings.num_classes, filters=size.filters, depth=settings.depth
    )
    if name == "student":
        model = kdcore.Distiller(model, temperature=2.0, alpha=0.9)
    rate = kdcore.warmup_cosine(peak=size.learning_rate, steps=size.steps)
    model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
    networks[name] = kdcore.fit(
        model, batches, size.epochs, folder=folder / name, split=everything_split, verbose=2
    )

# %% [markdown]
# ## Both ends
#
# The networks of examples 2, 4 and 5, and the new ones, on the validation scans.

# %%
before = {
    name: keras.saving.load_model(settings.need(f"{name}/network.keras", example))
    for name, example in (
        ("teacher", "02_teacher.py"),
        ("baseline", "05_baseline_and_comparison.py"),
        ("student", "04_student.py"),
    )
}
validation = split.take(cases, "validation")
absent = absent_labels(validation, settings.labels)
budgets = {}
for labels, chosen in {few: before, everything: networks}.items():
    parts = []
    for name, network in chosen.items():
        as_seen = [case.select(seen[name]) for case in validation]
        scores = kdcore.evaluate(network, as_seen, split=split, part="validation")
        parts.append(table_of(scores, arm=name, seed=settings.seed))
    budgets[labels] = where_present(pd.concat(parts, ignore_index=True), absent)
    print(f"{labels} labelled scans\n{tables.summary(budgets[labels])}\n")

# %% [markdown]
# ## The curve

# %%
figure = figures.label_budgets(budgets, title=settings.title)
figure.set_label("Dice over the number of labelled scans, for teacher, student and baseline.")
figure.savefig(settings.figures / "label_budgets.png", dpi=120)
plt.show()
print(f"figures: {settings.figures}")

# %% [markdown]
# ## Exercises
#
# 1. Where would the student's curve lie if it learned from the labelled scans alone?
#
# <details><summary>Solution</summary>
#
# Leave the unlabelled scans out of example 4's `training`, and give `fit` another `folder`. In the
# [results](../results/index.md) this is the arm `student-labelled`; it stands between baseline and
# student or below both.
#
# </details>
#
# 2. How many labels does the baseline need to reach the student with few?
#
# <details><summary>Solution</summary>
#
# A horizontal line through the student's first point meets the baseline's curve there. With two
# points the curve is a guess: run examples 1 to 5 with `--labelled 20 --runs runs-20` and look
# again.
#
# </details>

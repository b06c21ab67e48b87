# %% [markdown]
# # 7 · When it does not pay: predicted, tried, diagnosed
#
# In the default job the teacher sees what the student cannot. Here both see the same images,
# and the student is merely smaller. Distillation is known for exactly this, and with few labels
# its gain is easily one of the training's length.
#
# **You will learn** how to predict whether a teacher can help, how to see that a student does
# not imitate, and what to change first.
#
# 9 to 20 minutes on 2 CPU cores after examples 1 to 3.

# %%
import keras
import matplotlib.pyplot as plt
import pandas as pd
from settings import from_command_line

import kdcore
from kdcore.evaluation import absent_labels, agreement, table_of, tables, where_present

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
labelled, unlabelled = split.take(cases, "labelled"), split.take(cases, "unlabelled")
validation = split.take(cases, "validation")
teacher = keras.saving.load_model(settings.need("teacher/network.keras", "02_teacher.py"))
settings.need("soft-targets/manifest.json", "03_soft_targets.py")
soft_targets = kdcore.SoftTargets.open(settings.folder / "soft-targets")
size = settings.student
shape = (*size.shape, len(cases[0].sequences))  # all sequences, as the teacher

# %% [markdown]
# ## Predicted
#
# A teacher can add what it knows and the student cannot learn from the labels alone. The most
# it can add is the distance between teacher and baseline, and a student gets a part of it. So
# the first thing to look at is that distance, on validation scans: in the table below, the
# teacher's row.
#
# ## Tried, at two lengths
#
# Four trainings with the same start: student and baseline for the usual number of steps at a
# high rate, and both for twice the steps at half the rate. Whatever the student is given, the
# baseline gets, too. Neither looks for foreground, which example 4 does: this is the case as it was
# first tried.

# %%
plans = {
    "student": {"taught": True, "epochs": size.epochs, "rate": 2e-2},
    "baseline": {"taught": False, "epochs": size.epochs, "rate": 2e-2},
    "student, longer": {"taught": True, "epochs": 2 * size.epochs, "rate": 1e-2},
    "baseline, longer": {"taught": False, "epochs": 2 * size.epochs, "rate": 1e-2},
}
networks = {"teacher": teacher}
folder = settings.folder / "small-student"
for name, plan in plans.items():
    batches = kdcore.Batches(
        labelled + unlabelled if plan["taught"] else labelled,
        shape=size.shape,
        batch_size=size.batch_size,
        soft_targets=soft_targets if plan["taught"] else None,
        labelled_share=0.25 if plan["taught"] else None,
        augmentation=settings.augmentation,
        num_batches=size.steps_per_epoch,
        seed=settings.seed,
    )
    keras.utils.set_random_seed(settings.seed)
    model = kdcore.unet(shape, settings.num_classes, filters=4, depth=settings.depth)
    if plan["taught"]:
        model = kdcore.Distiller(model, temperature=2.0, alpha=0.9)
    rate = kdcore.warmup_cosine(plan["rate"], plan["epochs"] * size.steps_per_epoch)
    model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
    place = folder / name.replace(", ", "-")
    networks[name] = kdcore.fit(
        model, batches, plan["epochs"], folder=place, split=split, verbose=2
    )

# %%
parts = [
    table_of(kdcore.evaluate(network, validation, split=split, part="validation"), arm=name)
    for name, network in networks.items()
]
absent = absent_labels(validation, settings.labels)
table = where_present(pd.concat(parts, ignore_index=True), absent)
parameters = {name: network.count_params() for name, network in networks.items()}
print(tables.summary(table, parameters))

# %% [markdown]
# ## Diagnosed
#
# All differences are from the first baseline. Compare trainings of one length: student with
# baseline, longer student with longer baseline. What the longer pair still differs by is due to
# the teacher; what else the short student gained, the baseline gets by training on.
#
# Did the student learn what the teacher says? Look at *training* scans: there the teacher's
# answers were in front of it. An agreement of 1 would be a perfect copy. Where it is low, the
# student did not imitate, and nothing can be concluded about the teacher. The soft loss at the
# end of training says the same: what is left of it is what was not learned.

# %%
seen = unlabelled[:10]
for name in ("student", "student, longer"):
    agreed = pd.Series(agreement(teacher, seen, networks[name], seen)).mean()
    history = pd.read_csv(folder / name.replace(", ", "-") / "history.csv", index_col="epoch")
    left = history["soft_loss"].iloc[-1]
    print(f"{name:>16}: agrees with its teacher to {agreed:.3f} Dice, soft loss {left:.3f}")

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for name in ("student", "student, longer"):
    history = pd.read_csv(folder / name.replace(", ", "-") / "history.csv", index_col="epoch")
    axis.plot(history.index, history["soft_loss"], marker=".", label=name)
axis.set(xlabel="epoch", ylabel="soft loss", yscale="log")
axis.spines[["top", "right"]].set_visible(False)
axis.legend(frameon=False)
figure.set_label("Soft loss of both students over the epochs: the longer training ends lower.")
figure.savefig(settings.figures / "imitation.png", dpi=120)
plt.show()

# %% [markdown]
# ## What to take home
#
# - Measure teacher − baseline before anything else. If that is small, collect labels or find
#   a teacher that sees more.
# - A student that does not imitate its teacher on training scans is undertrained or too small.
#   Train it longer and at a lower rate before you change the loss.
# - Give the baseline the same. If the longer baseline closes the distance too, the teacher was
#   not what was missing.
#
# ## Exercises
#
# 1. Which of the two differences would you publish, and what beside it?
#
# <details><summary>Solution</summary>
#
# That of the longer trainings, beside the shorter ones, with several seeds: a difference that
# appears at one length of training is a property of that length.
#
# </details>
#
# 2. Replace the soft targets' probabilities by their most probable class (0 and 1). What does
#    the student lose?
#
# <details><summary>Solution</summary>
#
# These are hard pseudo-labels, `Distiller(..., soft_loss=kdcore.pseudo_label_loss)`. In many tasks
# little is lost, and a method must be compared with them before one says that softness helped.
#
# </details>

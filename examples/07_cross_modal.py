# %% [markdown]
# # 7 · Cross-modal distillation: a teacher that saw more
#
# In a study every patient lies in the scanner for four sequences; in the clinic there is
# often one. A network that sees T1, T1c, T2 and FLAIR finds a tumour easily, a network that
# sees T1 alone does not: on T1 oedema looks like grey matter, and core like oedema.
#
# Here the teacher sees all four sequences, and the student, which sees *T1 alone*, learns what
# the teacher said about the same voxels. The idea is Gupta et al. 2016
# ([arXiv:1507.00448](https://arxiv.org/abs/1507.00448)), with colour images and depth; for brain
# tumours Rahimpour et al. 2022
# ([doi:10.1109/TBME.2021.3137561](https://doi.org/10.1109/TBME.2021.3137561)) report that a T1
# network of patients' scans gained from 73.60 to 79.04 Dice for the whole tumour and from 62.62
# to 69.39 for its core. Lopez-Paz et al. 2016 ([arXiv:1511.03643](https://arxiv.org/abs/1511.03643))
# call what only the teacher sees *privileged information*.
#
# The scans are simulated by default. On your own folder, with one sub-folder a patient and
# files named as in the BraTS challenge: `--data brats --data-dir FOLDER`.
#
# **You will learn** how a teacher with more sequences is wired, and how much of the gap closes.
#
# About 9 minutes on 2 CPU cores, the simulation of the scans included.

# %%
import matplotlib.pyplot as plt
import numpy as np

import kdcore
from kdcore.evaluation import figures, tables
from kdcore.study import experiment, results
from kdcore.study.arguments import from_arguments
from kdcore.study.summary import summarize

job = from_arguments(study="cross-modal")
folder = job.root / "figures"
folder.mkdir(parents=True, exist_ok=True)
print(f"{len(job.cases)} cases: {job.task.name}. {job.task.note}")
for part in ("labelled", "unlabelled", "validation", "test"):
    print(f"{part:>10}: {len(getattr(job.split, part))}")

# %% [markdown]
# What the teacher sees, and what is to be found. The student gets the first panel.

# %%
case = max(job.take("labelled"), key=lambda c: (c.mask > 0).sum())
figure = figures.sequences(case, job.task.labels, title=job.task.name)
figure.set_label("One slice in T1, T1c, T2 and FLAIR, and with its reference mask.")
figure.savefig(folder / "sequences.png", dpi=120)
plt.show()

# %% [markdown]
# ## The teacher
#
# Trained on the labelled scans, all sequences. Then it labels the scans that have no labels.

# %%
teacher_run = experiment.train(job, "teacher", verbose="auto")
teacher = teacher_run.load()
print("the teacher's input:", teacher.input_shape)
soft_targets = job.soft_targets("student")
print(f"{len(soft_targets)} soft targets in {soft_targets.folder}")

# %% [markdown]
# ## The student
#
# A soft target is a map of a *case*, so nothing changes: the student's batches hold T1 slices
# and the teacher's probabilities for the same voxels. Files remember a digest of every
# sequence that was labelled, so another patient's T1, or the same one's, registered anew, is
# refused.

# %%
x, y = job.batches("student", soft_targets)[0]
print("the student's batch:", x.shape, {name: array.shape for name, array in y.items()})

t1_only = [case.select(["T1"]) for case in job.take("labelled")]
soft_targets.check_images(t1_only, "percentile")

# %% [markdown]
# ## All arms
#
# The baseline is the same T1 network trained on the labels alone. A third T1 network is distilled
# on the labelled scans only, to tell what the teacher's *softness* adds from what the
# *unlabelled scans* add.

# %%
runs = {arm: experiment.train(job, arm, verbose="auto") for arm in job.config.arms}
networks = {arm: run.load() for arm, run in runs.items()}
summary = summarize(job, runs.values())
path = results.save_results(summary, job.root / "results.json")
print(job.task.name)
print(tables.table(summary, job.task.scored))

# %% [markdown]
# ## How much of the gap is closed
#
# Case by case, with intervals over the test cases. A case without a tumour has no Dice unless a
# network finds one there, which scores 0. One seed here; `nox -s study -- --study
# cross-modal --budgets 8 20 50 --seeds 3` is the whole story.

# %%
print(tables.comparison_table(summary, job.task.scored))
print(tables.gap_table(summary, job.task.scored))

# %% [markdown]
# ## To look at
#
# The test cases where the student is best, in the middle and worst.

# %%
whole = job.task.compared[0]
scores = {c: e[whole]["dice"] for c, e in runs["student"].result["per_case"].items()}
cases = {c.case_id: c for c in job.take("test", "student") if (c.mask > 0).any()}
ranked = sorted(cases, key=lambda c: scores[c])
chosen = {"good": ranked[-1], "median": ranked[len(ranked) // 2], "bad": ranked[0]}
rows = {f"{name}: {scores[c]:.2f}": cases[c] for name, c in chosen.items()}
all_sequences = {c.case_id: c for c in job.take("test")}
masks = {
    arm: {
        c: kdcore.predict_mask(network, (all_sequences if arm == "teacher" else cases)[c])
        for c in chosen.values()
    }
    for arm, network in networks.items()
}
figure = figures.overlays(rows, masks, job.task.labels)
figure.suptitle(f"{job.task.name}; the image is T1", fontsize=9)
figure.set_label(
    "The student's best, median and worst test scan on T1: reference, and what the networks make "
    "of it; only the teacher saw the other sequences."
)
figure.savefig(folder / "overlays.png", dpi=120)
plt.show()

# %% [markdown]
# ## What goes to the clinic
#
# The student is a plain Keras model with one input channel. The teacher and the other sequences
# are not needed any more.

# %%
student = networks["student"]
student.save(job.root / "student_t1.keras")
again = kdcore.predict_mask(student, cases[ranked[-1]])
assert np.array_equal(again, masks["student"][ranked[-1]])
print(f"the student's input: {student.input_shape}, {student.count_params():,} parameters")
print(f"student:  {job.root / 'student_t1.keras'}")
print(f"results:  {path}")
print(f"figures:  {folder}")

# %% [markdown]
# ## Exercises
#
# 1. The student never sees FLAIR, yet it is better than the baseline. Where does that come from?
#
# <details><summary>Solution</summary>
#
# From scans nobody labelled: there the teacher, which sees FLAIR, draws the tumour, and the
# student learns what it looks like on T1. The arm without unlabelled scans shows how little is
# left without.
#
# </details>
#
# 2. Which limit can no teacher lift?
#
# <details><summary>Solution</summary>
#
# What T1 does not show. A network trained on T1 with *all* labels is the measure of it:
# [results](../results/cross-modal.md).
#
# </details>

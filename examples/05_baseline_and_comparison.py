# %% [markdown]
# # 5 · The baseline, and the comparison
#
# The question is not whether the student is good but whether it is better *than the same
# network trained without the teacher*: same weights at the start, same optimizer, same
# number of steps, settings chosen on the same validation scans with the same effort.
#
# **You will learn** how two networks are compared case by case, what the interval says and what
# it leaves out, and how to see whether the teacher teaches.
#
# About 3 minutes on 2 CPU cores.

# %%
import matplotlib.pyplot as plt
import numpy as np

import kdcore
from kdcore.evaluation import figures, tables
from kdcore.evaluation.metrics import case_dice
from kdcore.study import experiment, results
from kdcore.study.arguments import from_arguments
from kdcore.study.published import beside_published, published_results
from kdcore.study.summary import summarize

job = from_arguments()
folder = job.root / "figures"
folder.mkdir(parents=True, exist_ok=True)

# %%
runs = {arm: experiment.train(job, arm, verbose="auto") for arm in job.config.arms}
networks = {arm: run.load() for arm, run in runs.items()}

# %% [markdown]
# ## Is the teacher teaching?
#
# Distillation fails silently, so it is checked, on validation scans.

# %%
report = kdcore.check_teaching(
    networks["teacher"],
    networks["student"],
    job.take("validation"),
    baseline=networks["baseline"],
    student_before=job.network("student"),
    temperature=job.training("student").distillation.temperature,
    split=job.split,
)
print(report)

# %% [markdown]
# ## The table
#
# Per test scan, in 3-D. Surface Dice: share of the surface within 1 mm. HD95: 95th
# percentile of the distance between the surfaces.

# %%
summary = summarize(job, runs.values())
summary["check_teaching"] = report.to_dict()
path = results.save_results(summary, job.root / "results.json")
print(job.task.name)
print(tables.table(summary, job.task.scored))

# %% [markdown]
# Every scan is segmented by both networks, so their *difference* is known scan by
# scan. The interval says how far the mean difference would move with other scans like
# these, for this one seed; it does not contain the luck of the training.

# %%
print(tables.comparison_table(summary, job.task.scored))

# %% [markdown]
# ## Beside the published numbers
#
# Another seed, other labelled scans, another processor: your numbers will differ from the
# published ones. The published seeds say by how much a further seed is expected to.

# %%
published = published_results(job.name, job.config.num_labelled)
if published is None:
    print("Nothing is published for these data, this tier and this number of labels.")
else:
    for label in job.task.compared:
        name = job.task.scored.get(label, label)
        print(beside_published(summary, published, label, name), end="\n\n")

# %% [markdown]
# ## Loss curves

# %%
figure = figures.loss_curves({arm: run.result["history"] for arm, run in runs.items()})
figure.set_label("Training loss over epochs, a panel for each network; all fall and level off.")
figure.savefig(folder / "loss_curves.png", dpi=120)
plt.show()

# %% [markdown]
# ## Good, median and bad
#
# The student's best, median and worst test scan.

# %%
scores = {c: case_dice(entry) for c, entry in runs["student"].result["per_case"].items()}
scores = {c: score for c, score in scores.items() if np.isfinite(score)}
ranked = sorted(scores, key=lambda c: scores[c])
chosen = {"good": ranked[-1], "median": ranked[len(ranked) // 2], "bad": ranked[0]}
cases = {case.case_id: case for case in job.take("test")}
rows = {f"{name}: {scores[c]:.2f}": cases[c] for name, c in chosen.items()}
masks = {
    arm: {c: kdcore.predict_mask(network, cases[c]) for c in chosen.values()}
    for arm, network in networks.items()
}
figure = figures.overlays(rows, masks, job.task.labels)
figure.suptitle(job.task.name, fontsize=9)
figure.set_label(
    "The student's best, median and worst test scan: image, reference, and what teacher, student "
    "and baseline make of it."
)
figure.savefig(folder / "overlays.png", dpi=120)
plt.show()

# %% [markdown]
# ## Where everything lies

# %%
print(f"worst test scan of the student: Dice {min(scores.values()):.3f}")
print(f"results:  {path}")
print(f"figures:  {folder}")
for arm, run in runs.items():
    print(f"{arm + ':':<10}{run.folder}")

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
# 3. Train the student with another seed (`--seed 1`) and compare again. What changed besides the
#    weights at the start?
#
# <details><summary>Solution</summary>
#
# The order of the batches, the augmentation, and which training scans carry the labels. Validation
# and test scans stay.
#
# </details>

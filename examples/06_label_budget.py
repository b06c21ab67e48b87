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
# About 6 minutes on 2 CPU cores after the main job, 12 without it.

# %%
import matplotlib.pyplot as plt

from kdcore.evaluation import figures, tables
from kdcore.study import experiment, results
from kdcore.study.arguments import from_arguments
from kdcore.study.published import published_results
from kdcore.study.summary import summarize

job = from_arguments()
folder = job.root / "figures"
folder.mkdir(parents=True, exist_ok=True)
few = job.config.num_labelled
everything = len(job.split.labelled) + len(job.split.unlabelled)
print(job.task.name)
print(f"{few} of {everything} training scans labelled, then all of them")

# %% [markdown]
# ## Train at both ends
#
# A finished run is not repeated, so with few labels this only opens what the examples
# before have trained. With all labels there are no unlabelled scans left: the student
# still sees its teacher's soft targets of the labelled ones.

# %%
summaries = []
for labelled in (few, everything):
    budget = job.with_seed(job.seed, labelled)
    runs = [experiment.train(budget, arm, verbose="auto") for arm in budget.config.arms]
    summaries.append(summarize(budget, runs))
    results.save_results(summaries[-1], job.root / f"budget-{labelled}.json")

# %%
for label in job.task.compared:
    print(f"Dice, {job.task.scored.get(label, label)}")
    print(tables.budget_table(summaries, label), end="\n\n")

# %% [markdown]
# ## The gain at each end
#
# Differences are paired: each test scan is segmented by both networks.

# %%
for summary in summaries:
    print(f"{summary['config']['num_labelled']} labels")
    print(tables.comparison_table(summary, job.task.scored), end="\n\n")

# %% [markdown]
# ## The curve
#
# Your own runs (one seed), and the published ones with the range of their seeds.

# %%
figure = figures.label_budgets(summaries, job.task.compared[0], f"{job.task.name}: here")
figure.set_label("Dice over the number of labelled scans, in this run, for each network.")
figure.savefig(folder / "label_budgets.png", dpi=120)
plt.show()

# %%
published = [published_results(job.name, n) for n in (8, 20, 50, everything)]
published = [summary for summary in published if summary is not None]
if len(published) > 1:
    figure = figures.label_budgets(published, job.task.compared[0], "as published")
    figure.set_label("Published Dice over the number of labelled scans, with the seeds' range.")
    plt.show()
else:
    print(f"Numbers of labels published for these data and this tier: {len(published)}.")

# %% [markdown]
# ## Exercises
#
# 1. Where would the student's curve lie if it learned from the labelled scans alone?
#
# <details><summary>Solution</summary>
#
# `Distillation(unlabelled=False)`: the arm `student-labelled` of the published study. It stands
# in the [results](../results/index.md), between baseline and student or below both.
#
# </details>
#
# 2. How many labels does the baseline need to reach the student with few?
#
# <details><summary>Solution</summary>
#
# Read it off the published curve, where a horizontal line through the student's first point
# meets the baseline's. Then check: `nox -s study -- --budgets 20 --arms baseline`.
#
# </details>

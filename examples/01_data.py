# %% [markdown]
# # 1 · The data: scans, normalization, a split
#
# Distillation trains a small network, the *student*, with the help of a better one, the
# *teacher*. Before either is trained there are scans. By default they are *simulated*: brains
# with tumours in four MRI sequences (T1, T1c, T2, FLAIR), made on this machine from the MNI152
# anatomy and published tissue values, so nothing is downloaded. Real scans are one word away:
#
# | `--data` | scans | teacher → student |
# |---|---|---|
# | `simulated` | 240 brains with tumours | four sequences → T1 alone |
# | `acdc` | hearts of 100 patients [1] | a large → a small network |
# | `hippocampus` | 200 hippocampi [2] | a large 3-D → a small 2-D network |
# | `lgg` | gliomas of 100 patients [3], in `--data-dir` | three sequences → T1 alone |
# | `brats` | a folder of yours, in `--data-dir` | four sequences → T1 alone |
#
# [1] [Bernard et al. 2018](https://doi.org/10.1109/TMI.2018.2837502),
# [2] [Simpson et al. 2019](https://arxiv.org/abs/1902.09063),
# [3] [Buda et al. 2019](https://doi.org/10.1016/j.compbiomed.2019.05.002).
#
# **You will learn** what a case is, why a split goes by case and not by slice, and how
# intensities are normalized without leaking.
#
# About a minute on 2 CPU cores, most of it the simulation, which is done once.

# %%
import matplotlib.pyplot as plt
import numpy as np
from settings import from_command_line

import kdcore
from kdcore.evaluation import figures

settings = from_command_line()
print(settings)

# %% [markdown]
# ## Cases
#
# A `Case` is one scan: image `(D, H, W, sequences)`, mask `(D, H, W)`, voxel size in mm. For
# simulated scans `settings.read_cases` calls `kdcore.simulate_cases(240, seed=0,
# simulation=kdcore.Simulation(spacing_mm=3.0))`, for real ones `kdcore.read_msd`,
# `kdcore.read_brats`, `kdcore.data.read_acdc` or `kdcore.data.read_lgg`.

# %%
cases = settings.read_cases()
case = cases[0]
print(len(cases), "cases:", settings.title)
print("licence:", settings.licence)
print(case.case_id, case.image.shape, case.mask.shape, case.spacing_mm, case.sequences)
for label, name in settings.labels.items():
    share = np.mean([(c.mask == int(label)).mean() for c in cases])
    print(f"{name}: {share:.1%} of all voxels")

# %% [markdown]
# ## The split
#
# By case, never by slice: neighbouring slices are almost the same picture. A few scans
# have labels; of the other training scans we use the images only. Validation scans
# choose settings, test scans are looked at once, in example 5. (Shares and largest voxels on this
# page are of all scans; nothing is chosen by them.) `settings.split` is
#
# ```python
# kdcore.split_cases(
#     cases,
#     num_labelled=8,
#     num_validation=20,
#     num_test=60,
#     labelled_seed=0,
# )
# ```
#
# or, where a set has a split on which its results are published, that one. All scans of a
# patient belong on one side. In the hippocampus data a case is *one hemisphere*, and which two
# belong to a person is not public. A split by person is therefore impossible there, and a
# person may be on both sides.

# %%
split = settings.split(cases)
for part in ("labelled", "unlabelled", "validation", "test"):
    print(f"{part:>10}: {len(getattr(split, part))}")
split.save(settings.folder / "split.json")

# %% [markdown]
# ## A scan, and what is to be found in it
#
# The labelled scan with the largest structure, in every sequence.

# %%
labelled = split.take(cases, "labelled")
case = max(labelled, key=lambda c: (c.mask > 0).sum())
figure = figures.sequences(case, settings.labels, title=settings.title)
figure.set_label("One slice in every sequence, and the same slice with its reference mask.")
figure.savefig(settings.figures / "sequences.png", dpi=120)
plt.show()

# %% [markdown]
# ## Normalization
#
# MRI has no unit. Here are the brightest voxels of the scans' first sequence.

# %%
maxima = np.array([c.image[..., 0].max() for c in cases])
print(f"largest voxel of a scan: from {maxima.min():,.0f} to {maxima.max():,.0f}")

# %% [markdown]
# The 2020 recipe scaled all scans with *one* minimum and maximum. `fit_minmax` does
# that, on training scans only: it refuses the others, since their range would leak.

# %%
training = labelled + split.take(cases, "unlabelled")
fitted = kdcore.fit_minmax(training, split)
try:
    kdcore.fit_minmax(split.take(cases, "test"), split)
except kdcore.LeakageError as error:
    print("refused:", error)

# %% [markdown]
# The farther the maxima lie apart, the darker it leaves the scans. Each panel shows one
# scan's middle slice on the scale 0 … 1: above with one range for all, below by the
# percentiles of each scan, as in all examples from here on but the appendix.

# %%
order = np.argsort([c.image[..., 0].max() for c in training])
shown = [training[i] for i in order[np.linspace(0, len(order) - 1, 5).astype(int)]]
figure, axes = plt.subplots(2, 5, figsize=(9, 3.8), layout="constrained")
for column, c in zip(axes.T, shown, strict=True):
    middle = c.image.shape[0] // 2
    figures.show_slice(column[0], c, middle, image=fitted(c.image))
    figures.show_slice(column[1], c, middle, image=kdcore.normalize(c.image))
    column[0].set_title(f"max {c.image[..., 0].max():,.0f}", fontsize=9)
axes[0, 0].set_ylabel("fitted min-max")
axes[1, 0].set_ylabel("percentile")
figure.set_label(
    "Five scans from dark to bright. With one range for all the darker ones are nearly black; "
    "with percentiles of each scan all look alike."
)
figure.savefig(settings.figures / "normalization.png", dpi=120)
plt.show()
print(f"figures: {settings.figures}")

# %% [markdown]
# ## Exercises
#
# 1. Why may the split not be drawn over slices?
#
# <details><summary>Solution</summary>
#
# Slices of one scan are nearly copies of each other. Drawn over slices, almost every test
# slice has a neighbour among the training slices, and a network that remembers scores well.
#
# </details>
#
# 2. `fit_minmax` refuses test scans although it never looks at a mask. What could leak?
#
# <details><summary>Solution</summary>
#
# The range of the test scans' intensities. It moves every training voxel a little, so the
# network is fitted to scans that are meant to be unseen.
#
# </details>
#
# 3. Which share of the voxels is foreground, and what would a network score that always says
#    "background", in voxels right and in Dice?
#
# <details><summary>Solution</summary>
#
# The shares are printed above; everything else is right for such a network, well above 90 %
# of the voxels, while its Dice is 0. That is why nobody should report voxel accuracy here.
#
# </details>

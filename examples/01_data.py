# %% [markdown]
# # 1 · The data: scans, normalization, a split
#
# By default the scans are *simulated* (T1, T1c, T2 and FLAIR of brains with tumours, made on
# this machine from the MNI152 anatomy and published tissue values, so nothing is
# downloaded). With `--data hippocampus` they are 200 real MRI crops around the hippocampus
# (Medical Segmentation Decathlon, Task04, CC BY-SA 4.0; Simpson et al. 2019,
# [arXiv:1902.09063](https://arxiv.org/abs/1902.09063)). This page reads them, shows how
# intensities are normalized, and decides which scan is used for what.
#
# **You will learn** what a case is, why a split goes by case and not by slice, how intensities
# are normalized without leaking, and what a batch holds.
#
# About a minute on 2 CPU cores, most of it the simulation, which is done once.

# %%
import matplotlib.pyplot as plt
import numpy as np

import kdcore
from kdcore.evaluation import figures
from kdcore.study.arguments import from_arguments

job = from_arguments()
folder = job.root / "figures"
folder.mkdir(parents=True, exist_ok=True)
print(f"{len(job.cases)} cases: {job.task.name}. {job.task.note}")
print(f"everything of this job goes to {job.root}")

# %% [markdown]
# A `Case` is one scan: image `(D, H, W, sequences)`, mask `(D, H, W)`, voxel size in mm.

# %%
case = job.cases[0]
print(case.case_id, case.image.shape, case.mask.shape, case.spacing_mm, case.sequences)
for label, name in job.task.labels.items():
    share = np.mean([(c.mask == int(label)).mean() for c in job.cases])
    print(f"{name}: {share:.1%} of all voxels")

# %% [markdown]
# Every sequence of one scan, and what is to be found.

# %%
figure = figures.sequences(case, job.task.labels, title=job.task.name)
figure.set_label("One slice in every sequence, and the same slice with its reference mask.")
figure.savefig(folder / "sequences.png", dpi=120)
plt.show()

# %% [markdown]
# ## The split
#
# By case, never by slice: neighbouring slices are almost the same picture. A few scans
# have labels; of the other training scans we use the images only. Validation scans
# choose settings, test scans are looked at once.
#
# In the hippocampus data a case is *one hemisphere*, and which two belong to a person is
# not public. A split by person is therefore impossible there, and a person may be on both
# sides. That should flatter all networks alike; the paired differences stay meaningful.

# %%
split = job.split
for part in ("labelled", "unlabelled", "validation", "test"):
    print(f"{part:>10}: {len(getattr(split, part))}")

# %% [markdown]
# ## Normalization
#
# MRI has no unit. Here are the brightest voxels of the scans' first sequence.

# %%
maxima = np.array([c.image[..., 0].max() for c in job.cases])
print(f"largest voxel of a scan: from {maxima.min():,.0f} to {maxima.max():,.0f}")

# %% [markdown]
# The 2020 recipe scaled all scans with *one* minimum and maximum. `fit_minmax` does
# that, on training scans only: it refuses the others, since their range would leak.

# %%
training = job.take("labelled") + job.take("unlabelled")
fitted = kdcore.fit_minmax(training, split)
try:
    kdcore.fit_minmax(job.take("test"), split)
except kdcore.LeakageError as error:
    print("refused:", error)

# %% [markdown]
# The farther the maxima lie apart, the darker it leaves the scans. Each panel shows one
# scan's middle slice on the scale 0 … 1, fitted above, each scan for itself below.

# %%
order = np.argsort(maxima)
shown = [job.cases[i] for i in order[np.linspace(0, len(order) - 1, 5).astype(int)]]
figure, axes = plt.subplots(2, 5, figsize=(9, 3.8), layout="constrained")
figure.suptitle(job.task.name, fontsize=9)
for number, (column, c) in enumerate(zip(axes.T, shown, strict=True)):
    middle = c.image.shape[0] // 2
    scaled = {"fitted min-max": fitted(c.image), "percentile": kdcore.normalize(c.image)}
    for axis, (name, image) in zip(column, scaled.items(), strict=True):
        figures.show_slice(axis, c, middle, image=image)
        if number == 0:
            axis.set_ylabel(name)
    column[0].set_title(f"max {c.image[..., 0].max():,.0f}", fontsize=9)
figure.set_label(
    "Five scans from dark to bright. With one range for all the darker ones are nearly black; "
    "with percentiles of each scan all look alike."
)
figure.savefig(folder / "normalization.png", dpi=120)
plt.show()

# %%
used = {
    "fitted min-max": [np.percentile(fitted(c.image), 99) for c in training],
    "percentile": [np.percentile(kdcore.normalize(c.image), 99) for c in training],
}
for name, values in used.items():
    print(f"{name:>15}: half of the scans use less than {np.median(values):.4f} of the scale")

# %% [markdown]
# ## Batches
#
# `Batches` cuts scans into slices along the first axis (or into 3-D patches), pads them with
# their border's values, and augments image, mask and (later) soft target together.

# %%
x, y = job.batches("baseline")[0]
print("images", x.shape, x.dtype, "masks", y.shape, y.dtype)
split.save(job.root / "split.json")
print(f"split: {job.root / 'split.json'}, figures: {folder}")

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

# %% [markdown]
# # 1 · The data: volumes, normalization, a split
#
# 200 MRI crops around the hippocampus with two labels, anterior and posterior
# (Medical Segmentation Decathlon, Task04, CC BY-SA 4.0; Simpson et al. 2019,
# [arXiv:1902.09063](https://arxiv.org/abs/1902.09063)). This page reads them, shows why
# intensities are normalized *per volume*, and decides which volume is used for what.
#
# About 10 seconds on 2 CPU cores.

# %%
import matplotlib.pyplot as plt
import numpy as np

import kdcore
from kdcore import experiment

job = experiment.from_arguments()
figures = job.root / "figures"
figures.mkdir(parents=True, exist_ok=True)
print(f"{len(job.cases)} volumes; everything of this job goes to {job.root}")

# %% [markdown]
# A `Case` is one scan: image `(D, H, W, sequences)`, mask `(D, H, W)`, voxel size in mm.

# %%
case = job.cases[0]
print(case.case_id, case.image.shape, case.mask.shape, case.spacing_mm, case.sequences)
foreground = np.mean([(c.mask > 0).mean() for c in job.cases])
print(f"foreground: {foreground:.1%} of all voxels")

# %% [markdown]
# ## The split
#
# By case, never by slice: neighbouring slices are almost the same picture. Eight volumes
# have labels; of the other training volumes we use the images only. Validation volumes
# choose settings, test volumes are looked at once.
#
# A case is *one hemisphere*, and which two belong to a person is not public. A split by
# person is therefore impossible, and a person may be on both sides. That should flatter
# all networks alike; the paired differences stay meaningful.

# %%
split = job.split
for part in ("labelled", "unlabelled", "validation", "test"):
    print(f"{part:>10}: {len(getattr(split, part))}")

# %% [markdown]
# ## Normalization
#
# MRI has no unit. Here are the brightest voxels of the volumes.

# %%
maxima = np.array([c.image.max() for c in job.cases])
print(f"largest voxel of a volume: from {maxima.min():,.0f} to {maxima.max():,.0f}")

# %% [markdown]
# The 2020 recipe scaled all volumes with *one* minimum and maximum. `fit_minmax` does
# that, on training volumes only: it refuses the others, since their range would leak.

# %%
training = job.take("labelled") + job.take("unlabelled")
fitted = kdcore.fit_minmax(training, split)
try:
    kdcore.fit_minmax(job.take("test"), split)
except kdcore.LeakageError as error:
    print("refused:", error)

# %% [markdown]
# With maxima that far apart it leaves most volumes black. Each panel below shows one
# volume's middle slice on the scale 0 … 1, fitted above, per volume below.

# %%
order = np.argsort(maxima)
shown = [job.cases[i] for i in order[np.linspace(0, len(order) - 1, 5).astype(int)]]
figure, axes = plt.subplots(2, 5, figsize=(9, 3.4), layout="constrained")
for number, (column, c) in enumerate(zip(axes.T, shown, strict=True)):
    middle = c.image.shape[0] // 2
    scaled = {"fitted min-max": fitted(c.image), "percentile": kdcore.normalize(c.image)}
    for axis, (name, image) in zip(column, scaled.items(), strict=True):
        axis.imshow(image[middle, ..., 0].T, origin="lower", cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        if number == 0:
            axis.set_ylabel(name)
    column[0].set_title(f"max {c.image.max():,.0f}", fontsize=9)
figure.savefig(figures / "normalization.png", dpi=120)

# %%
used = {
    "fitted min-max": [np.percentile(fitted(c.image), 99) for c in training],
    "percentile": [np.percentile(kdcore.normalize(c.image), 99) for c in training],
}
for name, values in used.items():
    print(f"{name:>15}: half of the volumes use less than {np.median(values):.4f} of the scale")

# %% [markdown]
# ## Batches
#
# `Batches` cuts volumes into slices along the first axis, pads them with their border's
# values, and augments image, mask and (later) soft target together.

# %%
x, y = job.batches("teacher", seed=0)[0]
print("images", x.shape, x.dtype, "masks", y.shape, y.dtype)
split.save(job.root / "split.json")
print(f"split: {job.root / 'split.json'}, figure: {figures / 'normalization.png'}")

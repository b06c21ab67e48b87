# %% [markdown]
# # 4 · Distil the student
#
# The student learns from
#
# $$L = (1-\alpha)\,L_\text{hard}(y, z_s) + \alpha\,L_\text{soft}(z_t, z_s)$$
#
# $L_\text{hard}$ compares its logits $z_s$ with the mask $y$, where there is one. $L_\text{soft}$
# compares them with the teacher's: T² · mean KL divergence of the softened outputs, plus soft
# Dice between the probabilities. Scans that nobody labelled have the soft part alone. That is
# how they teach.
#
# **You will learn** what a batch of labelled and unlabelled slices looks like, what the two
# parts of the loss do, and that `Distiller` is a Keras model.
#
# 3 to 8 minutes on 2 CPU cores.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from settings import from_command_line

import kdcore
from kdcore.evaluation import absent_labels, figures

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
size = settings.student
training = split.take(cases, "labelled") + split.take(cases, "unlabelled")
training = [case.select(size.sequences) for case in training]
settings.need("soft-targets/manifest.json", "03_soft_targets.py")
soft_targets = kdcore.SoftTargets.open(settings.folder / "soft-targets")
print(size)

# %% [markdown]
# ## The batches
#
# A quarter of each batch are slices with labels. The rest comes from scans whose labels nobody
# drew: their mask is −1, so there the teacher alone speaks.
#
# Most slices of a brain show no tumour. `foreground_share` has two thirds of the samples show
# some, by the mask, or where there is none by the teacher's map. Without it the student sees too
# little of what it is to imitate.
#
# Augmentation moves image, mask and map together. Between voxels it interpolates log-probabilities,
# so in the picture below borders look a little surer than the teacher is.

# %%
batches = kdcore.Batches(
    training,
    shape=size.shape,
    batch_size=size.batch_size,
    soft_targets=soft_targets,
    labelled_share=0.25,
    foreground_share=size.foreground_share,
    augmentation=settings.augmentation,
    num_batches=size.steps_per_epoch,
    seed=settings.seed,
)
x, y = batches[0]
print("images", x.shape, {name: array.shape for name, array in y.items()})

# %%
teacher = 1 - np.exp(y["soft_targets"][..., 0])  # its foreground probability
order = np.argsort(-teacher.sum(axis=(1, 2)))  # slices with the largest structures first
has_mask = (y["mask"][order] >= 0).any(axis=(1, 2))
shown = [*order[has_mask][:2], *order[~has_mask][:2]]
rows = {"image": (x[..., 0], 0, 1), "mask": (y["mask"], -1, 2), "teacher": (teacher, 0, 1)}
figure, axes = plt.subplots(3, len(shown), figsize=(6, 5), layout="constrained")
for line, (name, (pictures, low, high)) in zip(axes, rows.items(), strict=True):
    for axis, picture in zip(line, pictures[shown], strict=True):
        axis.imshow(picture, cmap="gray", vmin=low, vmax=high)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
figure.set_label(
    "Four slices of a batch: image, mask, and the teacher's foreground probability. Two have a "
    "mask; the others are black there, without any label, and the teacher says where it is."
)
figure.savefig(settings.figures / "batch.png", dpi=120)
plt.show()

# %% [markdown]
# ## Distillation
#
# `Distiller` wraps the student. `temperature` softens both outputs, `alpha` weighs the teacher's
# part. No teacher is passed: its maps come with every batch. `kdcore.fit` returns the student. The
# callback keeps the student of every epoch, to be looked at below.

# %%
keras.utils.set_random_seed(settings.seed)
student = kdcore.unet(
    size.input_shape, settings.num_classes, filters=size.filters, depth=settings.depth
)
distiller = kdcore.Distiller(student, temperature=2.0, alpha=0.9)
rate = kdcore.warmup_cosine(peak=size.learning_rate, steps=size.steps)
distiller.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())

folder = settings.folder / "student"
student = kdcore.fit(
    distiller,
    batches,
    size.epochs,
    folder=folder,
    split=split,
    callbacks=[kdcore.StudentCheckpoint(folder / "epoch-{epoch:02d}.keras")],
    verbose=2,
)

# %% [markdown]
# ## How it went
#
# The loss by its parts. The soft loss is the distance that is left to the teacher.

# %%
history = pd.read_csv(folder / "history.csv", index_col="epoch")
axis = history[["hard_loss", "soft_loss"]].plot(figsize=(5, 3), marker=".", logy=True)
figure = axis.figure
figure.set_label("Hard and soft loss of the student after each epoch; both fall and level off.")
figure.savefig(settings.figures / "student_losses.png", dpi=120, bbox_inches="tight")
plt.show()

# %% [markdown]
# The student after its first, middle and last epoch, on the validation scan with the largest
# structure.

# %%
validation = [case.select(size.sequences) for case in split.take(cases, "validation")]
case = max(validation, key=lambda c: (c.mask > 0).sum())
epochs = sorted({1, (size.epochs + 1) // 2, size.epochs})
masks = {}
for epoch in epochs:
    network = keras.saving.load_model(folder / f"epoch-{epoch:02d}.keras", compile=False)
    masks[f"epoch {epoch}"] = {case.case_id: kdcore.predict_mask(network, case)}
figure = figures.overlays({"": case}, masks, settings.labels)
figure.set_label("One slice: reference, and the student after its first, middle and last epoch.")
figure.savefig(settings.figures / "student_epochs.png", dpi=120)
plt.show()

# %%
scores = kdcore.evaluate(student, validation, split=split, part="validation")
absent = absent_labels(validation, settings.labels)
print(f"{student.count_params():,} parameters")
print(f"mean Dice over {len(scores)} validation scans: {kdcore.mean_dice(scores, absent):.3f}")
print(f"student: {folder / 'network.keras'}")

# %% [markdown]
# ## Exercises
#
# 1. What is left of the loss in a slice without labels?
#
# <details><summary>Solution</summary>
#
# The soft part alone. Its mask is −1 everywhere, so all its voxels have weight 0 in the hard
# part, and the mean there goes over the voxels that have a label.
#
# </details>
#
# 2. What happens with `alpha=0`? And with `alpha=1`?
#
# <details><summary>Solution</summary>
#
# With 0 the student learns as `student.fit` would train it, from the labels alone. With 1 it
# never sees a label and learns from the teacher's probabilities alone.
#
# </details>
#
# 3. `Distiller(student, teacher)` without soft targets runs the teacher along. What does it cost,
#    and what can it do that files cannot? (To try it, take data where both see the same image,
#    `--data acdc`, and another `folder`: a teacher of four sequences cannot run on a batch of T1.)
#
# <details><summary>Solution</summary>
#
# Each step costs a forward pass of the teacher more. The teacher then sees the very same augmented
# slice, and its inner layers are at hand for hints.
#
# </details>

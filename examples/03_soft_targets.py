# %% [markdown]
# # 3 · Soft targets: what the teacher knows, on disk
#
# A soft target is a map of class probabilities of a whole scan. Once they are written,
# the student needs no teacher any more: a training step costs what a plain one costs, and
# whoever made the probabilities is a teacher, be it a network, several, or an nnU-Net elsewhere.
#
# **You will learn** what is kept, what it weighs, and where a teacher says more than a label.
#
# 1 to 4 minutes on 2 CPU cores.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from settings import from_command_line

import kdcore
from kdcore.evaluation import figures

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
teacher = keras.saving.load_model(settings.need("teacher/network.keras", "02_teacher.py"))

# %% [markdown]
# The teacher labels every training scan, those without labels too. Handing over the
# split makes it impossible to label a validation or test scan by mistake.

# %%
training = split.take(cases, "labelled") + split.take(cases, "unlabelled")
folder = settings.folder / "soft-targets"
soft_targets = kdcore.SoftTargets.write(teacher, training, folder, split=split)
try:
    kdcore.SoftTargets.write(teacher, split.take(cases, "test"), folder, split=split)
except kdcore.LeakageError as error:
    print("refused:", error)

size = sum(path.stat().st_size for path in folder.glob("*.npy"))
print(f"{len(soft_targets)} scans, {size / 1e6:.1f} MB of float16 log-probabilities in {folder}")

# %% [markdown]
# ## What is in them
#
# Far from every border the teacher is sure, and a soft target says no more than a label.
# Along the surface, and where one label turns into the other, it doubts: that is what a
# label cannot say. The *temperature* T divides the logits before the softmax; a higher one
# makes small probabilities count, and a very high one leaves no voxel sure, background included.
# (Log-probabilities do as well as logits here. They differ by one constant a voxel, which a softmax
# does not see.)

# %%
case = max(split.take(cases, "labelled"), key=lambda c: (c.mask > 0).sum())
log_p = np.asarray(soft_targets[case.case_id], np.float32)  # (D, H, W, classes)
for temperature in (1.0, 2.0, 5.0):
    p = np.exp(log_p / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    doubtful = (p.max(axis=-1) < 0.9).mean()
    print(f"T = {temperature:g}: {doubtful:.1%} of the voxels below 90 % confidence")

# %%
figure = figures.soft_target_maps(case, log_p, temperatures=(1, 2, 5))
figure.suptitle(settings.title, fontsize=9)
figure.set_label(
    "A slice, its reference, and the teacher's foreground probability at three temperatures: the "
    "higher the temperature, the wider the doubt around the border."
)
figure.savefig(settings.figures / "soft_targets.png", dpi=120)
plt.show()
print(f"figures: {settings.figures}")

# %% [markdown]
# ## Exercises
#
# 1. Why are log-probabilities kept, and not probabilities?
#
# <details><summary>Solution</summary>
#
# At a higher temperature the small ones count, and in float16 everything below 6e-8 would be
# 0. The logarithm of such a number is an ordinary one.
#
# </details>
#
# 2. Why not the logits?
#
# <details><summary>Solution</summary>
#
# Logits are known up to a constant that is the same for all classes of a voxel, and it cancels in
# every softmax, at every temperature. An ensemble or a program that is no network has none at all.
#
# </details>
#
# 3. How many bytes do the soft targets of one scan take? Compare with what was printed.
#
# <details><summary>Solution</summary>
#
# Voxels × classes × 2 bytes. The shape is that of the case's mask, with the classes behind it.
#
# </details>

# %% [markdown]
# # 3 · Soft targets: what the teacher knows, on disk
#
# A soft target is a map of class probabilities of a whole case. Once they are written,
# the student needs no teacher any more: a training step costs what a plain one costs, and
# whoever made the probabilities, a network, several, an nnU-Net elsewhere, is a teacher.
#
# **You will learn** what is kept, what it weighs, and where a teacher says more than a label.
#
# About 20 seconds on 2 CPU cores.

# %%
import matplotlib.pyplot as plt
import numpy as np

import kdcore
from kdcore.evaluation.figures import soft_target_maps
from kdcore.evaluation.teaching import soften
from kdcore.study import experiment
from kdcore.study.arguments import from_arguments

job = from_arguments()
teacher_run = experiment.train(job, "teacher")  # opens what example 2 trained
teacher = teacher_run.load()
split = job.split

# %% [markdown]
# The teacher labels every training scan, those without labels too. Handing over the
# split makes it impossible to label a validation or test scan by mistake.

# %%
training_cases = job.take("labelled") + job.take("unlabelled")
folder = teacher_run.folder.with_name(f"soft-targets-{teacher_run.folder.name}")
soft_targets = kdcore.SoftTargets.write(teacher, training_cases, folder, split=split)
try:
    kdcore.SoftTargets.write(teacher, job.take("test"), folder, split=split)
except kdcore.LeakageError as error:
    print("refused:", error)

size = sum(path.stat().st_size for path in folder.glob("*.npy"))
print(f"{len(soft_targets)} cases, {size / 1e6:.1f} MB of float16 log-probabilities in {folder}")

# %% [markdown]
# ## What is in them
#
# Far from every border the teacher is sure, and a soft target says no more than a label.
# Along the surface, and where one label turns into the other, it doubts: that is what a
# label cannot say. A higher temperature makes small probabilities count.

# %%
case = max(job.take("labelled"), key=lambda c: (c.mask > 0).sum())
log_p = np.asarray(soft_targets[case.case_id], np.float32)
for temperature in (1.0, 2.0, 5.0):
    p = soften(np.exp(log_p), temperature)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    doubtful = (p.max(-1) < 0.9).mean()
    print(
        f"T = {temperature:g}: entropy {entropy.mean():.4f} nats a voxel, "
        f"{doubtful:.1%} of the voxels below 90 % confidence"
    )

# %%
figure = soft_target_maps(case, log_p, temperatures=(1, 2, 5))
figure.suptitle(job.task.name, fontsize=9)
figure.set_label(
    "A slice, its reference, and the teacher's foreground probability at three temperatures: the "
    "higher the temperature, the wider the doubt around the border."
)
figure.savefig(job.root / "figures" / "soft_targets.png", dpi=120)
plt.show()
print(f"figure: {job.root / 'figures' / 'soft_targets.png'}")

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

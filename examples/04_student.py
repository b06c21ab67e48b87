# %% [markdown]
# # 4 · Distil the student
#
# The student, a 2-D U-Net, has a fraction of the teacher's parameters. It learns from
#
# $$L = (1-\alpha)\,L_\text{hard}(y, z_s) + \alpha\,L_\text{soft}(z_t, z_s)$$
#
# with $L_\text{soft}$ = T² · mean KL between the softened outputs + soft Dice between the
# probabilities. A part of each batch are slices with labels; the rest comes from scans
# whose labels nobody drew, and there the teacher alone speaks.
#
# **You will learn** what the two parts of the loss do, what a batch of labelled and unlabelled
# slices looks like, and how `Distiller` is used like any Keras model.
#
# About 2 minutes on 2 CPU cores.

# %%
import keras

import kdcore
from kdcore.evaluation.metrics import mean_dice
from kdcore.study.arguments import from_arguments

job = from_arguments()
training = job.training("student")
soft_targets = job.soft_targets("student")  # opens what example 3 wrote
print(training)

# %% [markdown]
# Each batch brings the mask, −1 where a scan has no labels, and the soft targets.

# %%
batches = job.batches("student", soft_targets)
x, y = batches[0]
unlabelled = (y["mask"] == -1).all(axis=(1, 2)).sum()
print(x.shape, {name: array.shape for name, array in y.items()})
print(f"{unlabelled} of {len(x)} slices without labels")

# %% [markdown]
# `Distiller` is a Keras model around the student. Only the student learns.

# %%
run = job.run("student", soft_targets)
if not run.finished:
    keras.utils.set_random_seed(job.seed)
    student = kdcore.unet(
        job.input_shape("student"),
        num_classes=job.task.num_classes,
        filters=training.filters,
        depth=job.config.depth,
        name="student",
    )
    distiller = kdcore.Distiller(
        student,
        temperature=training.distillation.temperature,
        alpha=training.distillation.alpha,
    )
    job.compile(distiller, "student")
    run.fit(distiller, batches, epochs=job.epochs("student"))
    job.finish(run, distiller)

student, result = run.load(), run.result
print(f"{student.count_params():,} parameters, {result['training_seconds']:.0f} s of training")
print(f"mean Dice: {result['validation_dice']:.3f} on validation scans")
print(f"           {mean_dice(result['per_case']):.3f} on test scans ({job.task.name})")
print(f"run: {run.folder}")

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
# With 0 the student is the baseline, bit for bit (TensorFlow, CPU). With 1 it never sees a label
# and learns from the teacher's probabilities alone.
#
# </details>
#
# 3. Try it: `Distiller(student, teacher)` without soft targets runs the teacher along. What does it
#    cost, and what can it do that files cannot?
#
# <details><summary>Solution</summary>
#
# Each step costs a forward pass of the teacher more. The teacher then sees the very same augmented
# slice, and its inner layers are at hand for hints.
#
# </details>

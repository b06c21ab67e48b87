# %% [markdown]
# # 2 · Train the teacher
#
# A large U-Net learns from the few labelled scans: soft Dice plus cross-entropy, augmentation,
# Adam. For the hippocampus it is a 3-D network that sees the neighbouring slices, which
# the student will not: a soft target is a map of a *case*, so a 3-D network can teach a 2-D one.
#
# **You will learn** how an arm is described, trained, resumed and evaluated in 3-D.
#
# About 3 minutes on 2 CPU cores.

# %%
import keras

import kdcore
from kdcore.evaluation.metrics import mean_dice
from kdcore.study.arguments import from_arguments

job = from_arguments()
training = job.training("teacher")
print(training)

# %% [markdown]
# A run folder belongs to one arm, one seed and one set of settings. If this training was
# interrupted it goes on, if it is finished it is not done again.

# %%
run = job.run("teacher")
batches = job.batches("teacher")

if not run.finished:
    keras.utils.set_random_seed(job.seed)
    teacher = kdcore.unet(
        job.input_shape("teacher"),
        num_classes=job.task.num_classes,
        filters=training.filters,
        depth=job.config.depth,
        name="teacher",
    )
    job.compile(teacher, "teacher")  # Adam, warm-up and cosine decay, DiceCrossEntropy
    run.fit(teacher, batches, epochs=job.epochs("teacher"))
    job.finish(run, teacher)

teacher = run.load()
teacher.summary(line_length=90)

# %% [markdown]
# `evaluate` puts the slices of each test scan back together and measures in 3-D. An
# average over slices would reward slices without any foreground.

# %%
result = run.result
print(f"{teacher.count_params():,} parameters, {result['training_seconds']:.0f} s of training")
print(f"mean Dice: {result['validation_dice']:.3f} on validation scans")
print(f"           {mean_dice(result['per_case']):.3f} on test scans ({job.task.name})")
print(f"run: {run.folder}")

# %% [markdown]
# ## Exercises
#
# 1. Stop this example while it trains, and start it again. Where does it go on?
#
# <details><summary>Solution</summary>
#
# At the epoch that was not finished. Weights, optimizer and position are kept after each epoch;
# batches depend on seed and epoch alone, so the result is the same as without the stop.
#
# </details>
#
# 2. Why is the Dice taken over a whole scan, and not as a mean over its slices?
#
# <details><summary>Solution</summary>
#
# In many slices there is nothing to find. There a Dice is undefined, or 1 for saying nothing,
# and the mean would mostly count those. In 3-D every scan has one value for each label.
#
# </details>
#
# 3. The validation Dice is a little different from the test Dice. Which one may be used to
#    choose the learning rate?
#
# <details><summary>Solution</summary>
#
# Only that of the validation scans. Whatever chose a setting is no longer an honest judge of it.
#
# </details>

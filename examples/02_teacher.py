# %% [markdown]
# # 2 · Train the teacher
#
# A large U-Net learns from the few labelled scans: soft Dice plus cross-entropy, augmentation,
# Adam. For the hippocampus it is a 3-D network that sees the neighbouring slices, which
# the student will not: a soft target is a map of a *case*, so a 3-D network can teach a 2-D one.
#
# About 3 minutes on 2 CPU cores.

# %%
import keras

import kdcore
from kdcore.arguments import from_arguments
from kdcore.metrics import mean_dice

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

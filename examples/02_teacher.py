# %% [markdown]
# # 2 · Train the teacher
#
# A 3-D U-Net of 0.55 M parameters learns from the eight labelled volumes: soft Dice plus
# cross-entropy, augmented patches, AdamW. It sees the neighbouring slices, which the
# student will not: a soft target is a map of a *case*, so a 3-D network can teach a 2-D one.
#
# About 3 minutes on 2 CPU cores.

# %%
import keras

import kdcore
from kdcore import experiment
from kdcore.metrics import mean_dice

job = experiment.from_arguments()
seed = 0
config, training = job.config, job.config.teacher
print(training)

# %% [markdown]
# A run folder belongs to one arm, one seed and one set of settings. If this training was
# interrupted it goes on, if it is finished it is not done again.

# %%
run = job.run("teacher", seed)
batches = job.batches("teacher", seed)

if not run.finished:
    keras.utils.set_random_seed(seed)
    teacher = kdcore.unet(
        job.input_shape("teacher"),
        num_classes=3,
        filters=training.filters,
        depth=config.depth,
        name="teacher",
    )
    job.compile(teacher, "teacher")  # AdamW, warm-up and cosine decay, DiceCrossEntropy
    run.fit(teacher, batches, epochs=job.epochs("teacher"))
    job.finish(run, teacher)

teacher = run.load()
teacher.summary(line_length=90)

# %% [markdown]
# `evaluate` puts the slices of each test volume back together and measures in 3-D. An
# average over slices would reward slices without any hippocampus.

# %%
result = run.result
print(f"{teacher.count_params():,} parameters, {result['training_seconds']:.0f} s of training")
print(f"mean Dice: {result['validation_dice']:.3f} on validation volumes")
print(f"           {mean_dice(result['per_case']):.3f} on test volumes")
print(f"run: {run.folder}")

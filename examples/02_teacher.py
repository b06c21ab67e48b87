# %% [markdown]
# # 2 · Train the teacher
#
# A U-Net learns from the few labelled scans, with soft Dice plus cross-entropy. It is an
# ordinary Keras model; nothing here knows about distillation yet. On the simulated scans the
# teacher sees all four MRI sequences, of which the student will get one. On the hippocampus it
# is a large 3-D network, which sees the neighbouring slices.
#
# **You will learn** how scans become batches, how a segmentation network is trained in Keras,
# and how it is evaluated on whole scans.
#
# 3 to 7 minutes on 2 CPU cores.

# %%
import keras
from settings import from_command_line

import kdcore
from kdcore.evaluation import absent_labels

settings = from_command_line()
cases = settings.read_cases()
split = settings.split(cases)
size = settings.teacher
labelled = [case.select(size.sequences) for case in split.take(cases, "labelled")]
print(size)

# %% [markdown]
# ## The network
#
# `input_shape` ends in the number of MRI sequences. The output is one raw logit a class;
# softmax is left to the loss.

# %%
keras.utils.set_random_seed(settings.seed)
teacher = kdcore.unet(
    size.input_shape, settings.num_classes, filters=size.filters, depth=settings.depth
)
teacher.summary(line_length=76)

# %% [markdown]
# ## The batches
#
# Slices (or 3-D patches) of that shape, augmented anew each time. What a batch holds depends
# on the seed and the epoch alone, so a training that was interrupted goes on with the very
# batches it would have seen.

# %%
batches = kdcore.Batches(
    labelled,
    shape=size.shape,
    batch_size=size.batch_size,
    foreground_share=size.foreground_share,
    augmentation=settings.augmentation,
    num_batches=size.steps_per_epoch,
    seed=settings.seed,
)
x, y = batches[0]
print("images", x.shape, "masks", y.shape)

# %% [markdown]
# ## Training
#
# `kdcore.fit` is `teacher.fit` with a folder: it saves after every epoch, goes on where it was
# interrupted, and only loads the network if the training is finished.

# %%
rate = kdcore.warmup_cosine(peak=size.learning_rate, steps=size.steps)
teacher.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
teacher = kdcore.fit(teacher, batches, size.epochs, folder=settings.folder / "teacher", verbose=2)

# %% [markdown]
# ## Evaluation
#
# `evaluate` puts the slices of each scan back together and measures in 3-D. An average over
# slices would reward slices in which there is nothing to find. A scan without a structure has no
# Dice for it and is left out of that mean. These are *validation* scans: test scans are looked at
# once, in example 5.

# %%
validation = [case.select(size.sequences) for case in split.take(cases, "validation")]
scores = kdcore.evaluate(teacher, validation, split=split, part="validation")
absent = absent_labels(validation, settings.labels)
print(f"{teacher.count_params():,} parameters")
print(f"mean Dice over {len(scores)} validation scans: {kdcore.mean_dice(scores, absent):.3f}")
print(f"teacher: {settings.folder / 'teacher' / 'network.keras'}")

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
# 3. Which scans may be used to choose the learning rate?
#
# <details><summary>Solution</summary>
#
# The validation scans. Whatever chose a setting is no longer an honest judge of it, so the test
# scans must not.
#
# </details>

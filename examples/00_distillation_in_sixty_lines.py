# %% [markdown]
# # 0 · Distillation in sixty lines
#
# *Knowledge distillation* trains one network, the **student**, with the help of a better one, the
# **teacher**. This page does it from beginning to end with Keras and NumPy, nothing else.
#
# Why is the teacher better? Here it sees more. In a study every patient is scanned in two ways;
# in deployment only the first, poorer image is taken, and the student will see that one alone.
# And labels are scarce, since somebody has to draw them: 8 of our images have labels, 256 have
# none. The teacher learns from the 8, both images of each. Then it says what it thinks of every
# pixel of all 264, and the student learns from that and from the 8 labels. The student's network
# trained on the labels alone is the **baseline**. Is the student better than the baseline?
#
# The data and the picture take some fifty lines, distillation itself about sixty. A minute on 2
# CPU cores.

# %%
import os

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops

seed = int(os.environ.get("KDCORE_SEED", "0"))
keras.utils.set_random_seed(seed)
rng = np.random.default_rng(seed)

# %% [markdown]
# ## Data
#
# Toy images: a cloudy background, noise, and two bright spots of any size and brightness. The one
# with a brighter rim is a lesion and has label 1, rim and inside. The other one has no rim: it is
# background, label 0. A threshold cannot tell them apart, nor can a look at one pixel alone. That
# is the first channel. The second, which the teacher alone sees, shows the lesion and not the
# other spot.

# %%
SIZE = 32


def make_images(count):
    """Images (count, SIZE, SIZE, 2) and labels (count, SIZE, SIZE)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    noise = rng.normal(size=(count, SIZE, SIZE))
    clouds = sum(np.roll(noise, (i, j), axis=(1, 2)) for i in range(8) for j in range(8)) / 8
    images = 0.5 * clouds + 0.5 * rng.normal(size=noise.shape)
    labels = np.zeros(noise.shape, "int32")
    for image, label in zip(images, labels, strict=True):
        for is_lesion in (False, True):
            row, column = rng.uniform(6, SIZE - 6, size=2)
            angle = np.arctan2(y - row, x - column)
            radius = rng.uniform(4, 8) * (1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6.3)))
            distance = np.hypot(y - row, x - column) / radius
            brightness = rng.uniform(0.7, 1.5)
            image[distance < 1] += brightness
            image[(distance > 0.65) & (distance < 1)] += 0.8 * brightness * is_lesion
            label[distance < 1] = is_lesion
    second = labels + 0.7 * rng.normal(size=noise.shape)
    return np.stack([images, second], axis=-1).astype("float32"), labels


def eight_views(x):
    """Augmentation: every image also flipped and turned, (N, ...) -> (8 N, ...)."""
    x = np.concatenate([x, x.swapaxes(1, 2)])
    x = np.concatenate([x, x[:, ::-1]])
    return np.concatenate([x, x[:, :, ::-1]])


labelled_images, labels = map(eight_views, make_images(8))
unlabelled_images, _ = make_images(256)  # their labels are thrown away
validation = make_images(100)  # to choose settings with
test = make_images(200)  # to look at once, at the end

# %% [markdown]
# ## Network
#
# A small U-Net. For each pixel it gives two numbers, one for background and one for lesion. These
# are **logits**: any numbers, the larger one wins, and softmax makes them probabilities. The
# network ends without softmax, since distillation needs the logits. Teacher and student differ in
# what they see, and in their number of filters.


# %%
def unet(filters, channels):
    def convolve(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    images = keras.Input((SIZE, SIZE, channels))
    fine = convolve(images, filters)
    middle = convolve(layers.MaxPooling2D()(fine), 2 * filters)
    x = convolve(layers.MaxPooling2D()(middle), 4 * filters)
    x = convolve(layers.Concatenate()([layers.UpSampling2D()(x), middle]), 2 * filters)
    x = convolve(layers.Concatenate()([layers.UpSampling2D()(x), fine]), filters)
    return keras.Model(images, layers.Conv2D(2, 1)(x))


# %% [markdown]
# All networks are trained in the same way: as many steps, batches of the same size, Adam with the
# same rate, which falls to 0 along a cosine. Dice measures how much of prediction and truth
# overlaps: 1 if they are equal, 0 if they do not touch. We take the mean over images.

# %%
STEPS = {"smoke": 20}.get(os.environ.get("KDCORE_TIER"), 300)
BATCH = 16
RATE = 1e-2


def seen_by(network, images):
    return images[..., : network.input_shape[-1]]  # both channels, or the first


def train(network, images, targets, loss):
    rate = keras.optimizers.schedules.CosineDecay(RATE, STEPS)
    network.compile(keras.optimizers.Adam(rate), loss=loss)
    network.fit(
        seen_by(network, images), targets, BATCH, epochs=STEPS * BATCH // len(images), verbose=0
    )


def logits_of(network, images):
    return ops.convert_to_numpy(network(seen_by(network, images)))


def mean_dice(network, images, labels):
    masks = logits_of(network, images).argmax(axis=-1)
    both = (masks * labels).sum(axis=(1, 2))
    return (2 * both / (masks.sum(axis=(1, 2)) + labels.sum(axis=(1, 2)))).mean()


# %% [markdown]
# ## Teacher
#
# It learns from both channels of the labelled images. Cross-entropy is the usual loss for this.

# %%
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
teacher = unet(filters=8, channels=2)
train(teacher, labelled_images, labels, cross_entropy)
print(f"teacher: {mean_dice(teacher, *validation):.3f} Dice on validation images")

# %% [markdown]
# ## Student
#
# Now the teacher looks at *all* training images. We keep its logits $z_t$, since they say more
# than a mask does: where the lesion is, but also where the teacher is not sure. The student's
# loss has two parts,
#
# $$L = (1-\alpha)\,L_\text{hard} + \alpha\,T^2\,\mathrm{KL}(p_t \,\|\, p_s),\qquad
# p = \mathrm{softmax}(z / T)$$
#
# - the **hard** part is the cross-entropy with the labels, where there are any;
# - the **soft** part is the distance (Kullback-Leibler divergence) of the student's probabilities
#   from the teacher's, the **soft targets**. It needs no label, so every image counts.
#
# The **temperature** $T$ divides both logits before softmax. Above 1 it makes the probabilities
# softer, so that it shows better what the teacher holds for possible; $T^2$ makes up for the
# gradients, which at a high $T$ get smaller by as much. **Alpha** weighs the soft part: 0 is
# training without teacher, 1 without labels.
#
# Keras hands a loss one array of targets. Ours has three channels: the label, −1 where there is
# none, and the teacher's two logits. It is written for two classes; [From
# scratch](../from-scratch.md) has it for any number.

# %%
TEMPERATURE = 2.0
ALPHA = 0.5


def distillation_loss(targets, student_logits):
    label, teacher_logits = targets[..., 0], targets[..., 1:]
    known = ops.cast(label >= 0, "float32")
    log_p = ops.log_softmax(student_logits)
    cross_entropy = -ops.where(label == 1, log_p[..., 1], log_p[..., 0])
    hard = ops.sum(known * cross_entropy) / ops.maximum(ops.sum(known), 1)
    log_t = ops.log_softmax(teacher_logits / TEMPERATURE)
    log_s = ops.log_softmax(student_logits / TEMPERATURE)
    soft = ops.mean(ops.sum(ops.exp(log_t) * (log_t - log_s), axis=-1))
    return (1 - ALPHA) * hard + ALPHA * TEMPERATURE**2 * soft


images = np.concatenate([labelled_images, unlabelled_images])
no_labels = np.full((len(unlabelled_images), SIZE, SIZE), -1)
label = np.concatenate([labels, no_labels])[..., None]
targets = np.concatenate([label, logits_of(teacher, images)], axis=-1)

student = unet(filters=4, channels=1)
first_weights = student.get_weights()
train(student, images, targets.astype("float32"), distillation_loss)
print(f"student: {mean_dice(student, *validation):.3f} Dice on validation images")

# %% [markdown]
# ## Baseline
#
# The same small network with the same weights at the start and as many steps, on the labels
# alone. Without it nobody knows whether the teacher helped.

# %%
baseline = unet(filters=4, channels=1)
baseline.set_weights(first_weights)
train(baseline, labelled_images, labels, cross_entropy)
print(f"baseline: {mean_dice(baseline, *validation):.3f} Dice on validation images")

# %% [markdown]
# ## Comparison
#
# No setting was chosen on the test images; they are looked at now.
# A longer baseline was not tried.

# %%
networks = {"teacher": teacher, "baseline": baseline, "student": student}
dice = {name: mean_dice(network, *test) for name, network in networks.items()}
print(f"{'network':<10}{'parameters':>12}{'test Dice':>12}")
for name, network in networks.items():
    print(f"{name:<10}{network.count_params():>12,}{dice[name]:>12.3f}")
print(f"student - baseline: {dice['student'] - dice['baseline']:+.3f}")

# %% [markdown]
# The first three test images, not the best three.

# %%
test_images, test_labels = (array[:3] for array in test)
columns = {"image": test_images[..., 0], "truth": test_labels}
columns |= {
    name: logits_of(network, test_images).argmax(axis=-1) for name, network in networks.items()
}
figure, axes = plt.subplots(3, 5, figsize=(8, 5), layout="constrained")
for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
    column[0].set_title(title)
    for axis, picture in zip(column, pictures, strict=True):
        axis.imshow(picture, cmap="gray")
        axis.axis("off")
figure.set_label(
    "Three test images, their true labels, and what teacher, baseline and student make of them."
)
plt.show()

# %% [markdown]
# ## What is toy, and what is not
#
# The images are made up, and far simpler than scans. The rest is what one does with real ones:
# labels for few, a teacher that knows more, soft targets for all, the same network without a
# teacher beside it, and a test set that is looked at once. Real scans ask for more care: cases
# instead of images, so that slices of one patient stay on one side; scans too large for memory;
# structures so small that the mean over pixels forgets them. That is what `kdcore` does, from
# example 1 on.

"""What each silent failure of distillation does, in a few numbers: `docs/results/pitfalls.json`.

Random logits, tiny networks and a handful of steps with TensorFlow on a CPU; a few seconds.
Every row sets the faulty computation beside the right one.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kdcore
from kdcore._files import write_json
from kdcore.losses import log_probabilities
from kdcore.normalization import FittedMinMax
from kdcore.training import provenance

RESULTS = Path(__file__).parents[1] / "results"
COLUMNS = ["pitfall", "what goes wrong", "wrong", "right"]
Row = list[str]


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of a teacher and of a student."""
    drawn = np.random.default_rng(seed).normal(0, scale, (2, *shape)).astype(np.float32)
    return drawn[0], drawn[1]


def gradient(loss: Callable, student: np.ndarray) -> np.ndarray:
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        value = loss(variable)
    return np.asarray(tape.gradient(value, variable))


def divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """KL in every voxel, nothing averaged and no T²."""
    log_p = log_probabilities(tf.convert_to_tensor(teacher) / temperature)
    log_q = log_probabilities(student / temperature)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def small(seed: int, normalized: bool = False) -> keras.Model:
    """Two convolutions; `normalized` puts batch normalization between them."""
    image = keras.Input((8, 8, 1))
    keras.utils.set_random_seed(seed)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    if normalized:
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.Model(image, keras.layers.Conv2D(3, 1)(x))


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Images, and a mask of three classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, (8, 8, 8))


def moved(before: list[np.ndarray], weights: list) -> float:
    """The largest change of a weight."""
    return max(float(np.abs(b - np.asarray(w)).max()) for b, w in zip(before, weights, strict=True))


def values(weights: list) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(w).copy() for w in weights]


def keras_default() -> list[Row]:
    teacher, student = logits(2, 8, 8, 4)
    stock = keras.distillation.LogitsDistillation(3.0)
    mended = keras.distillation.LogitsDistillation(3.0, loss=keras.losses.KLDivergence())
    losses = [float(one.compute_loss(teacher, student)) for one in (stock, mended)]
    zero = [
        float(np.mean(gradient(lambda z, one=loss: one.compute_loss(teacher, z), student) == 0))
        for loss in (stock, mended)
    ]
    assert abs(losses[1] - float(kdcore.kd_loss(teacher, student, 3.0))) < 1e-3
    same = tf.constant([[0.2, 0.2]]), tf.constant([[0.9, 0.9]])
    equal = [float(loss.compute_loss(*same)) for loss in (stock, mended)]
    name = f"Keras {keras.__version__}: `LogitsDistillation()`"
    return [
        [name, "loss of random logits, T = 3", *(f"{one:.2f}" for one in losses)],
        [
            name,
            "student logits whose gradient is exactly zero",
            *(f"{100 * z:.0f} %" for z in zero),
        ],
        [name, "two uniform answers: logits (0.2, 0.2), (0.9, 0.9)", *(f"{e:.2f}" for e in equal)],
    ]


def sums() -> list[Row]:
    teacher, student = logits(16, 64, 48, 3)
    right = gradient(lambda z: kdcore.kd_loss(teacher, z, 1.0), student)
    reductions = {
        "sum over voxels": lambda z: tf.reduce_sum(divergence(teacher, z)),
        "`batchmean`: sum divided by the images": lambda z: (
            tf.reduce_sum(divergence(teacher, z)) / len(student)
        ),
    }
    what = "weight of the soft loss, 16 slices of 64 × 48, mean = 1"
    return [
        [name, what, f"{np.abs(gradient(loss, student)).sum() / np.abs(right).sum():,.0f}", "1"]
        for name, loss in reductions.items()
    ]


def softmaxes() -> list[Row]:
    teacher, student = logits(4, 8, 8, 1)
    p, q = tf.nn.softmax(teacher), tf.nn.softmax(student)  # 1, whatever the logits are
    one = float(tf.reduce_mean(p * tf.math.log(p / q)))
    right = float(kdcore.kd_loss(teacher, student, 1.0))
    once = tf.nn.softmax([8.0, 0.0, -2.0])
    twice = tf.nn.softmax(once)
    wide, _ = logits(4, 8, 8, 3)
    total = [np.asarray(tf.nn.softmax(wide, axis=axis)).sum(-1) for axis in (1, -1)]
    ranges = [f"{t.min():.2f} … {t.max():.2f}" for t in total]
    return [
        [
            "softmax over one channel",
            "soft loss of random logits",
            f"{one:.2f}",
            f"{right:.2f}",
        ],
        [
            "softmax twice",
            "top probability of logits (8, 0, −2)",
            f"{float(twice[0]):.3f}",
            f"{float(once[0]):.4f}",
        ],
        ["softmax over axis 1 of (B, H, W, C)", "sum over a voxel's classes", *ranges],
    ]


def temperature() -> list[Row]:
    teacher, student = logits(4, 8, 8, 3, scale=1.0)
    sizes = {}
    for name, factor in (("wrong", lambda t: 1.0), ("right", lambda t: t**2)):
        norms = [
            np.linalg.norm(
                gradient(
                    lambda z, t=t, f=factor: f(t) * tf.reduce_mean(divergence(teacher, z, t)),
                    student,
                )
            )
            for t in (1.0, 4.0)
        ]
        sizes[name] = norms[1] / norms[0]
    ratios = [f"{sizes[name]:.3f}" for name in ("wrong", "right")]
    return [["T² forgotten", "gradient at T = 4, relative to T = 1", *ratios]]


def teachers() -> list[Row]:
    images, mask = batch()
    teacher = small(0, normalized=True)
    for _ in range(100):  # its running statistics settle
        teacher(images, training=True)
    before = teacher(images, training=False)
    few = teacher(images[:2], training=True) - before[:2]
    other = float(np.std(few) / np.std(before[:2]))
    before = teacher(images, training=False)
    distil(teacher, images, mask)
    kept = float(np.std(teacher(images, training=False) - before) / np.std(before))
    learning, student = small(1), small(2)
    start, optimizer = values(learning.weights), keras.optimizers.Adam(0.01)
    both = [*learning.trainable_variables, *student.trainable_variables]
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(divergence(learning(images), student(images)))
        optimizer.apply(tape.gradient(loss, both), both)
    frozen = small(1)
    unchanged = values(frozen.weights)
    distil(frozen, images, mask)
    rows = [
        [
            "teacher in training mode",
            "change of its logits in a batch of 2, relative to their spread",
            other,
            kept,
        ],
        [
            "teacher not frozen",
            "largest change of its weights after 5 steps",
            moved(start, learning.weights),
            moved(unchanged, frozen.weights),
        ],
    ]
    return [[*names, f"{wrong:.3f}", f"{right:.0f}"] for *names, wrong, right in rows]


def distil(teacher: keras.Model, images: np.ndarray, mask: np.ndarray) -> None:
    """Five steps of `kdcore.Distiller`."""
    distiller = kdcore.Distiller(small(2), teacher)
    distiller.compile(keras.optimizers.Adam(0.01))
    distiller.fit(images, mask, epochs=5, batch_size=len(images), verbose=0)


def soft_dice() -> list[Row]:
    target, grid = np.full((1, 64, 1), 0.5, np.float32), np.linspace(0, 1, 101)
    linear = [1 - 2 * (0.5 * p) / (0.5 + p) for p in grid]
    squared = [float(kdcore.soft_dice_loss(target, np.full_like(target, p))) for p in grid]
    best = [f"{grid[int(np.argmin(losses))]:.2f}" for losses in (linear, squared)]
    return [["linear soft Dice on soft targets", "best answer to a target of 0.5", *best]]


def weights_ignored() -> list[Row]:
    images, mask = batch()
    nothing = np.zeros(len(images), np.float32)
    changes = []
    stock = keras.distillation.Distiller(
        teacher=small(1),
        student=small(2),
        distillation_losses=keras.distillation.LogitsDistillation(
            2.0, loss=keras.losses.KLDivergence()
        ),
    )
    for distiller in (stock, kdcore.Distiller(small(2), small(1))):
        hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(optimizer=keras.optimizers.Adam(0.01), loss=hard)
        before = values(distiller.student.weights)
        distiller.fit(images, mask, sample_weight=nothing, epochs=5, batch_size=8, verbose=0)
        changes.append(moved(before, distiller.student.weights))
    what = "largest change of the student's weights, all samples weighted 0"
    name = f"Keras {keras.__version__}: `Distiller` drops `sample_weight`"
    return [[name, what, f"{changes[0]:.3f}", f"{changes[1]:.0f}"]]


def leaks() -> list[Row]:
    cases, slices, share = 20_000, 30, 0.2
    by_slice = np.random.default_rng(0).random((cases, slices)) < share
    by_case = np.repeat(np.random.default_rng(0).random((cases, 1)) < share, slices, axis=1)
    leaked = []
    for test in (by_slice, by_case):
        training = np.pad(~test, ((0, 0), (1, 1)))
        beside = training[:, :-2] | training[:, 2:]
        leaked.append(f"{100 * beside[test].mean():.0f} %")
    what = "test slices with a neighbour in training, a fifth of the slices held out"
    return [["slices drawn at random, not cases", what, *leaked]]


def means() -> list[Row]:
    reference, prediction = np.zeros((2, 10, 20), int), np.zeros((2, 10, 20), int)
    reference[0, :, :10], reference[1, 0, :2] = 1, 1  # 100 voxels, and a tip of 2
    prediction[0, :, :10] = 1  # the tip is missed
    slices = [kdcore.dice(a, b, 1) for a, b in zip(reference, prediction, strict=True)]
    whole = kdcore.dice(reference, prediction, 1)
    lesion = np.zeros(100, int)
    lesion[:5] = 1
    nothing = [kdcore.dice(lesion, np.zeros(100, int), label) for label in (0, 1)]
    empty = "Dice of “background everywhere”, 5 % foreground"
    tip = [f"{np.mean(slices):.3f}", f"{whole:.3f}"]
    return [
        ["mean over slices, not a 3-D Dice a case", "Dice, a tip of 2 voxels missed", *tip],
        ["background in the mean Dice", empty, f"{np.mean(nothing):.3f}", f"{nothing[1]:.3f}"],
    ]


def normalization() -> list[Row]:
    ids = [f"case{i}" for i in range(5)]
    split = kdcore.Split(labelled=tuple(ids[:3]), unlabelled=(), validation=(), test=tuple(ids[3:]))
    cases = [
        kdcore.Case(name, np.linspace(0, top, 64).reshape(4, 4, 4, 1), None, (1.0, 1.0, 1.0))
        for name, top in zip(ids, (90.0, 100.0, 80.0, 95.0, 5000.0), strict=True)
    ]
    everything = FittedMinMax((0.0,), (max(float(c.image.max()) for c in cases),), tuple(ids))
    fitted = kdcore.fit_minmax(cases[:3], split)
    top = [max(float(scale(c.image).max()) for c in cases[:3]) for scale in (everything, fitted)]
    what = "brightest training voxel, when one test case has another unit"
    return [["normalization fitted on all cases", what, *(f"{t:.2f}" for t in top)]]


def main() -> None:
    steps = (keras_default, sums, softmaxes, temperature, teachers, soft_dice, weights_ignored)
    rows = [row for step in (*steps, leaks, means, normalization) for row in step()]
    assert all(len(row) == len(COLUMNS) and all(isinstance(c, str) for c in row) for row in rows)
    for row in rows:
        print(" | ".join(row))
    content = {"columns": COLUMNS, "rows": rows, **provenance()}
    write_json(RESULTS / "pitfalls.json", content, sealed=True)


if __name__ == "__main__":
    main()

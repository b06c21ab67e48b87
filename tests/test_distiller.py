"""Roles, weights, labels, saving: what the peers' distillers get wrong."""

import keras
import numpy as np
import pytest
from pytest import approx

import kdcore

SHAPE = (16, 16, 1)
BACKEND = keras.backend.backend()


def build(seed=0, filters=2, classes=3, **kwargs):
    keras.utils.set_random_seed(seed)
    return kdcore.unet(SHAPE, classes, filters=filters, depth=1, **kwargs)


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(w)) for w in model.weights]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def compiled(model, eager=BACKEND == "tensorflow", **kwargs):
    """Eager where a graph takes longer to build than these few steps; one test compares the two."""
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=eager, **kwargs)
    return model


def fit(model, x, y, **kwargs):
    keras.utils.set_random_seed(1)
    return model.fit(x, y, batch_size=4, verbose=0, shuffle=False, **kwargs).history


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, *SHAPE)).astype("float32")
    return x, (x[..., 0] > 0).astype("int32") + (x[..., 0] > 1)


@pytest.fixture
def log_p(rng):
    return np.log(rng.dirichlet([1, 1, 1], (8, *SHAPE[:2]))).astype("float16")


# --- roles ------------------------------------------------------------------------------


def test_only_the_student_learns(data):
    teacher, student = build(1, 4), build(2)
    before = weights(teacher), weights(student)
    fit(compiled(kdcore.Distiller(student, teacher)), *data, epochs=2)
    assert same(before[0], weights(teacher))  # batch normalization included
    assert not same(before[1], weights(student))


@pytest.mark.job
def test_a_graph_learns_what_eager_steps_learn(data):
    students = [build(2), build(2)]
    for student, eager in zip(students, [True, False], strict=True):
        fit(compiled(kdcore.Distiller(student, build(1)), eager=eager), *data, epochs=2)
    for a, b in zip(*map(weights, students), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_teacher_with_dropout_does_not_roll_dice(data):
    """Frozen batch normalization is safe either way; dropout shows the teacher's mode."""
    x, _ = data
    inputs = keras.Input(x.shape[1:])
    teacher = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.9)(inputs)))
    distiller = kdcore.Distiller(build(2), teacher)
    expected = teacher(x, training=False)
    for _ in range(2):
        received = distiller._teacher_logits(x, None, 3)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(received), keras.ops.convert_to_numpy(expected), atol=1e-6
        )


def test_the_student_still_trains_after_validation(data):
    # A student left in inference mode after the first validation keeps its statistics.
    student = build(2)
    distiller = compiled(kdcore.Distiller(student, build(1, 4)))
    statistics = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            moving = [w for w in student.non_trainable_weights if "moving" in w.path]
            statistics.append([np.array(keras.ops.convert_to_numpy(w)) for w in moving])

    fit(distiller, *data, epochs=3, validation_data=data, callbacks=[Watch()])
    assert not same(statistics[0], statistics[1]) and not same(statistics[1], statistics[2])


def test_a_float32_teacher_teaches_a_half_precision_student(data):
    teacher = build(1, 4)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        history = fit(compiled(kdcore.Distiller(build(2), teacher)), *data)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()


@pytest.mark.job
def test_the_student_moves_towards_the_teacher(data):
    teacher, student = build(1, 4), build(2)
    distiller = kdcore.Distiller(student, teacher, temperature=1.0, alpha=1.0)
    distiller.compile(optimizer=keras.optimizers.Adam(0.02))
    history = fit(distiller, *data, epochs=20)
    assert history["soft_loss"][-1] < 0.5 * history["soft_loss"][0]


def test_history_has_the_three_losses_and_they_add_up(data):
    for alpha in (0.25, 1.0):
        distiller = compiled(kdcore.Distiller(build(2), build(1, 4), alpha=alpha))
        history = fit(distiller, *data, epochs=2)
        hard, soft = np.array(history["hard_loss"]), np.array(history["soft_loss"])
        np.testing.assert_allclose(history["loss"], (1 - alpha) * hard + alpha * soft, rtol=1e-5)


def test_losses_are_those_of_the_functions(data):
    x, y = data
    student, teacher = build(2), build(1, 4)
    hard = float(kdcore.dice_cross_entropy(y, student(x, training=True)))
    student = build(2)
    logits = student(x, training=True)
    soft = float(kdcore.regional_kd_loss(teacher(x, training=False), logits, 3.0))
    distiller = compiled(kdcore.Distiller(build(2), teacher, temperature=3.0))
    keras.utils.set_random_seed(1)
    history = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert history["hard_loss"][0] == approx(hard, rel=1e-4)
    assert history["soft_loss"][0] == approx(soft, rel=1e-4)


@pytest.mark.parametrize("with_teacher", [False, True])
def test_alpha_zero_is_plain_fit(data, with_teacher):
    plain, distilled = build(3), build(3)
    compiled(plain, loss=kdcore.DiceCrossEntropy())
    teacher = build(1, 4) if with_teacher else None
    distiller = compiled(kdcore.Distiller(distilled, teacher, alpha=0.0))
    a, b = fit(plain, *data, epochs=2), fit(distiller, *data, epochs=2)
    if BACKEND == "tensorflow":
        assert a["loss"] == b["loss"]
        assert same(weights(plain), weights(distilled))
    else:  # XLA fuses, and PyTorch adds up, in an order that depends on the graph
        for x, y in zip(weights(plain), weights(distilled), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)
    assert "soft_loss" not in b


# --- soft targets in place of a teacher -------------------------------------------------


def test_soft_targets_equal_the_online_teacher(data):
    x, y = data
    teacher = build(1, 4)
    logits = teacher.predict(x, verbose=0)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    online, offline = build(2), build(2)
    fit(compiled(kdcore.Distiller(online, teacher)), x, y)
    fit(compiled(kdcore.Distiller(offline)), x, {"mask": y, "soft_targets": log_p})
    for a, b in zip(weights(online), weights(offline), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_without_teacher_and_soft_targets_it_says_so(data):
    with pytest.raises(ValueError, match="no teacher and y brings no soft targets"):
        fit(compiled(kdcore.Distiller(build())), *data)
    scan = np.arange(4.0)[:, None, None, None] * np.ones(SHAPE)
    batches = kdcore.Batches([kdcore.Case("a", scan, None, (1, 1, 1))], SHAPE[:2], 2)
    with pytest.raises(ValueError, match="no teacher and y brings no soft targets"):
        compiled(kdcore.Distiller(build())).fit(batches, verbose=0)


@pytest.mark.parametrize("classes", [None, 4])
def test_a_mistaken_call_of_fit_leaves_the_student_as_it_was(data, log_p, classes):
    """In JAX a model that fails within `fit` has lost its weights."""
    x, y = data
    distiller = compiled(kdcore.Distiller(build()))
    before = weights(distiller.student)
    other = np.log(np.full((*y.shape, classes or 1), 1 / (classes or 1), "float32"))
    with pytest.raises(ValueError, match="no teacher|have 4 classes, the student 3"):
        fit(distiller, x, {"mask": y, "soft_targets": other} if classes else y)
    assert same(before, weights(distiller.student))
    fit(distiller, x, {"mask": y, "soft_targets": log_p})
    assert not same(before, weights(distiller.student))


def test_soft_targets_of_other_classes_or_voxels_leave_the_student_as_it_was(data, log_p, tmp_path):
    x, y = data
    distiller = compiled(kdcore.Distiller(build()))
    before = weights(distiller.student)
    with pytest.raises(ValueError, match=r"of shape .*, the mask of"):
        fit(distiller, x, {"mask": y, "soft_targets": log_p[:, 1:]})
    cases = [kdcore.Case("a", np.arange(4.0)[:, None, None, None] * np.ones(SHAPE), None, (1,) * 3)]
    other = kdcore.SoftTargets.write(kdcore.unet(SHAPE, 4, 2, 1), cases, tmp_path)
    batches = kdcore.Batches(cases, SHAPE[:2], 2, soft_targets=other)
    with pytest.raises(ValueError, match="have 4 classes, the student 3"):
        distiller.fit(batches, verbose=0)
    assert same(before, weights(distiller.student))


class Awakening(keras.utils.PyDataset):
    """Has batches from the beginning of the first epoch on."""

    def __init__(self, x, y):
        super().__init__()
        self.content, self.ready = (x, y), False

    def on_epoch_begin(self):
        self.ready = True

    def __len__(self):
        return 1

    def __getitem__(self, index):
        assert self.ready
        return self.content


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras itself looks at a batch first")
def test_a_data_set_of_ones_own_is_not_looked_at_before_its_time(data, log_p):
    x, y = data
    distiller = compiled(kdcore.Distiller(build()))
    before = weights(distiller.student)
    distiller.fit(Awakening(x, {"mask": y, "soft_targets": log_p}), verbose=0)
    assert not same(before, weights(distiller.student))


@pytest.mark.parametrize("loss", [kdcore.cross_entropy, kdcore.dice_cross_entropy])
def test_it_is_loaded_with_the_hard_loss_it_was_saved_with(data, log_p, loss, tmp_path):
    x, y = data
    distiller = compiled(kdcore.Distiller(build()), loss=loss)
    fit(distiller, x, {"mask": y, "soft_targets": log_p})
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras", safe_mode=True)
    assert again.evaluate(x, y, verbose=0) == approx(distiller.evaluate(x, y, verbose=0))


def test_unlabelled_samples_need_no_labels(data, log_p):
    x, y = data
    nothing = np.full_like(y, -1)
    history = fit(compiled(kdcore.Distiller(build())), x, {"mask": nothing, "soft_targets": log_p})
    assert history["hard_loss"][0] == 0.0
    assert history["loss"][0] == approx(0.5 * history["soft_loss"][0], rel=1e-5)


def test_batches_without_labels_do_not_dilute_the_hard_loss(data, log_p):
    x, y = data
    half = y.copy()
    half[4:] = -1
    distiller = kdcore.Distiller(build(2))
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    history = fit(distiller, x, {"mask": half, "soft_targets": log_p})  # 4 + 4 images
    logits = build(2)(x[:4], training=True)
    expected = float(kdcore.dice_cross_entropy(y[:4], logits))
    assert history["hard_loss"][0] == approx(expected, rel=1e-3)


def test_hidden_labels_do_not_matter(data, log_p):
    x, y = data
    half = y.copy()
    half[4:] = -1
    one, two = build(2), build(2)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    hard = [
        fit(compiled(kdcore.Distiller(m), loss=loss), x, {"mask": half, "soft_targets": log_p})
        for m, loss in ((one, keras_loss), (two, kdcore.DiceCrossEntropy(dice_weight=0.0)))
    ]
    # Keras' own loss becomes a mean over the voxels that are labelled, too.
    assert hard[0]["hard_loss"][0] == approx(hard[1]["hard_loss"][0], rel=1e-4)


def test_one_channel_student(data):
    x, y = data
    y = (y > 0).astype("int32")
    p = np.where(y > 0, 0.8, 0.1)[..., None].astype("float32")
    two_channels = np.log(np.concatenate([1 - p, p], axis=-1))
    histories = [
        fit(compiled(kdcore.Distiller(build(2, classes=1))), x, {"mask": y, "soft_targets": s})
        for s in (np.log(p), two_channels)
    ]
    assert histories[0]["soft_loss"][0] > 0.01
    assert histories[0]["soft_loss"][0] == approx(histories[1]["soft_loss"][0], rel=1e-4)


# --- weights, regularizers --------------------------------------------------------------


def test_sample_weight_counts_in_both_losses(data, log_p):
    x, y = data
    weight = np.ones(8, "float32")
    weight[4:] = 0
    target = {"mask": y, "soft_targets": log_p}
    first = {"mask": y[:4], "soft_targets": log_p[:4]}
    weighted = compiled(kdcore.Distiller(build(2)))
    weighted.fit(x, target, sample_weight=weight, batch_size=8, verbose=0)
    # The student's batch statistics differ, so compare losses of the same forward pass.
    logits = build(2)(x, training=True)
    soft = float(kdcore.regional_kd_loss(log_p, logits, 2.0, weight))
    hard = float(kdcore.dice_cross_entropy(y, logits, weight))
    again = compiled(kdcore.Distiller(build(2)))
    history = again.fit(x, target, sample_weight=weight, batch_size=8, verbose=0).history
    assert history["soft_loss"][0] == approx(soft, rel=1e-4)
    assert history["hard_loss"][0] == approx(hard, rel=1e-4)
    other = compiled(kdcore.Distiller(build(2)))
    assert fit(other, x[:4], first)["soft_loss"][0] != approx(
        float(kdcore.regional_kd_loss(log_p, logits, 2.0)), rel=1e-4
    )


@pytest.mark.parametrize("shape", [(8,), (8, 16, 16), (8, 16, 16, 1)])
def test_sample_weight_of_any_shape(data, log_p, shape, rng):
    x, y = data
    weight = rng.uniform(0.5, 2, shape).astype("float32")
    per_voxel = weight.reshape(*shape, *[1] * (4 - len(shape)))[..., 0] * np.ones(y.shape, "f")
    losses = []
    for w in (weight, per_voxel):
        distiller = compiled(kdcore.Distiller(build(2)))
        target = {"mask": y, "soft_targets": log_p}
        history = distiller.fit(x, target, sample_weight=w, batch_size=8, verbose=0).history
        losses.append([history[key][0] for key in ("hard_loss", "soft_loss")])
    assert losses[0] == approx(losses[1], rel=1e-4)


def test_voxel_weights_of_zero_stop_learning(data, log_p):
    x, y = data
    student = build(2)
    before = weights(student)
    distiller = compiled(kdcore.Distiller(student))
    zero = np.zeros(y.shape, "float32")
    distiller.fit(
        x, {"mask": y, "soft_targets": log_p}, sample_weight=zero, verbose=0, batch_size=8
    )
    trainable = {id(w) for w in student.trainable_weights}
    for old, variable in zip(before, student.weights, strict=True):
        if id(variable) in trainable:
            np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_regularizers_and_add_loss_are_kept_whole(data, log_p):
    x, y = data

    class Activity(keras.layers.Layer):
        def call(self, z):
            self.add_loss(keras.ops.convert_to_tensor(7.0))
            return z

    inputs = keras.Input(SHAPE)
    z = keras.layers.Conv2D(3, 1, kernel_regularizer=keras.regularizers.L2(10.0))(inputs)
    student = keras.Model(inputs, Activity()(z))
    kernel = keras.ops.convert_to_numpy(student.layers[1].kernel)
    extra = 7.0 + 10.0 * float((kernel**2).sum())
    distiller = compiled(kdcore.Distiller(student, alpha=0.75))
    target = {"mask": y, "soft_targets": log_p}
    history = distiller.fit(x, target, batch_size=8, verbose=0).history
    losses = 0.25 * history["hard_loss"][0] + 0.75 * history["soft_loss"][0]
    assert history["loss"][0] == approx(losses + extra, rel=1e-4)


# --- evaluation -------------------------------------------------------------------------


def test_evaluate_changes_nothing_and_is_the_students_own(data):
    x, y = data
    student, teacher = build(2), build(1, 4)
    distiller = kdcore.Distiller(student, teacher)
    compiled(distiller, metrics=[kdcore.ForegroundDice(3)])
    before = weights(student) + weights(teacher)
    report = distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert same(before, weights(student) + weights(teacher))
    own = float(kdcore.dice_cross_entropy(y, student(x, training=False)))
    assert report["loss"] == approx(own, rel=1e-5)
    assert set(report) == {"loss", "hard_loss", "dice"}
    prediction = student.predict(x, verbose=0).argmax(-1)
    expected = np.mean([kdcore.dice(y, prediction, k) for k in (1, 2)])
    assert report["dice"] == approx(expected, rel=1e-5)


def test_validation_does_not_run_the_teacher(data):
    class Raises(keras.layers.Layer):
        def call(self, z, training=None):
            raise AssertionError("the teacher was run")

    inputs = keras.Input(SHAPE)
    teacher = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
    distiller = compiled(kdcore.Distiller(build(), teacher))
    teacher.call = Raises().call
    distiller.evaluate(*data, verbose=0)


def test_predict_is_the_students(data):
    student = build(2)
    distiller = kdcore.Distiller(student, build(1, 4))
    assert distiller.student is student
    np.testing.assert_array_equal(
        distiller.predict(data[0], verbose=0), student.predict(data[0], verbose=0)
    )


def test_validation_history_has_no_soft_loss(data, log_p):
    x, y = data
    history = fit(
        compiled(kdcore.Distiller(build())),
        x,
        {"mask": y, "soft_targets": log_p},
        validation_data=(x, y),
        epochs=2,
    )
    assert len(history["soft_loss"]) == 2 and "val_soft_loss" not in history
    assert history["val_loss"] == history["val_hard_loss"]


# --- several teachers, other inputs -----------------------------------------------------


def test_several_teachers_are_their_mean_probability(data):
    x, y = data
    teachers = [build(1, 4), build(5, 4)]
    p = np.mean(
        [keras.ops.convert_to_numpy(keras.ops.softmax(t(x, training=False))) for t in teachers],
        axis=0,
    )
    one, two = build(2), build(2)
    a = fit(compiled(kdcore.Distiller(one, teachers)), x, y)
    b = fit(compiled(kdcore.Distiller(two)), x, {"mask": y, "soft_targets": np.log(p)})
    assert a["soft_loss"][0] == approx(b["soft_loss"][0], rel=1e-4)


def test_teacher_with_other_inputs(data, rng):
    x, y = data
    teacher = kdcore.unet((16, 16, 4), 3, filters=4, depth=1)
    distiller = compiled(kdcore.Distiller(build(2), teacher))
    wide = rng.normal(size=(8, 16, 16, 4)).astype("float32")
    history = fit(distiller, {"student": x, "teacher": wide}, y)
    assert np.isfinite(history["loss"]).all()
    assert distiller.predict(x, verbose=0).shape == (8, 16, 16, 3)


# --- a teacher that knows some of the classes ---------------------------------------------


def soft_loss_of(teacher, known, soft_targets=None):
    """Where the student puts out `LOGITS`."""
    distiller = kdcore.Distiller(
        always(0.0, 0.0, 0.0),
        teacher,
        temperature=1.0,
        alpha=1.0,
        soft_loss=kdcore.kd_loss,
        known_classes=known,
    )
    mask = np.full((1, 2, 2), -1)
    y = mask if soft_targets is None else {"mask": mask, "soft_targets": soft_targets}
    logits = keras.ops.convert_to_tensor(LOGITS)
    return float(compiled(distiller).compute_loss(LOGITS, y, logits, training=True))


def always(*logits):
    """A network that says the same everywhere."""
    inputs = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2D(len(logits), 1, kernel_initializer="zeros")
    model = keras.Model(inputs, layer(inputs))
    layer.bias.assign(logits)
    return model


LOGITS = np.tile(np.array([1.0, 1.0, 7.0], "float32"), (1, 2, 2, 1))


def test_the_soft_loss_is_over_the_classes_that_the_teacher_knows():
    """p = (.1, .9) of classes 0 and 1; the student says (.5, .5) of them and is sure of class 2."""
    expected = 0.1 * np.log(0.2) + 0.9 * np.log(1.8)
    p = np.tile([0.1, 0.9], (1, 2, 2, 1))
    padded = np.log(np.concatenate([p, np.full((1, 2, 2, 1), 1e-30)], axis=-1))
    for teacher, soft_targets in (
        (always(0.0, np.log(9)), None),
        (always(0.0, np.log(9), -3.0), None),
        (None, np.log(p)),
        (None, padded),
    ):
        received = soft_loss_of(teacher, (0, 1), soft_targets)
        assert received == approx(expected, rel=1e-4)
    assert soft_loss_of(always(np.log(9), 0.0), (1, 0)) == approx(expected, rel=1e-4)
    assert soft_loss_of(None, None, padded) > 5  # class 2 is taught away


@pytest.mark.job
def test_what_the_teacher_does_not_know_is_learned_from_labels(tmp_path):
    """A teacher of organ and background; the lesion within the organ is new."""
    rng = np.random.default_rng(0)
    cases = []
    for i in range(2):
        mask = np.zeros((4, 16, 16), np.uint8)
        mask[:, 4:12, 4:12], mask[:, 6:10, 6:10] = 1, 2
        image = mask * 3.0 + rng.normal(0, 0.2, mask.shape)
        cases.append(kdcore.Case(f"c{i}", image[..., None], mask, (1, 1, 1)))

    def teacher(case):
        organ = np.where(case.mask > 0, 0.95, 0.05)
        return np.stack([1 - organ, organ], axis=-1)

    def padded(case):
        return np.concatenate([teacher(case), np.zeros((*case.mask.shape, 1))], axis=-1)

    teacher.digest = padded.digest = "organ"
    narrow = kdcore.SoftTargets.write(teacher, cases, tmp_path / "narrow")
    with pytest.warns(UserWarning, match=r"the classes \[2\] have probability 0 in every voxel"):
        wide = kdcore.SoftTargets.write(padded, cases, tmp_path / "wide")
    assert narrow.known_classes == wide.known_classes == (0, 1)

    def lesion(soft_targets, **kwargs):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((16, 16, 1))
        hidden = keras.layers.Conv2D(32, 1, activation="relu")(inputs)
        student = keras.Model(inputs, keras.layers.Conv2D(3, 1)(hidden))
        distiller = kdcore.Distiller(student, alpha=0.9, **kwargs)
        distiller.compile(keras.optimizers.Adam(0.05))
        batches = kdcore.Batches(cases, (16, 16), 8, soft_targets=soft_targets, num_batches=30)
        distiller.fit(batches, epochs=5, verbose=0)
        scores = kdcore.evaluate(student, cases)
        return min(entry["2"]["dice"] for entry in scores.values())

    assert lesion(narrow, known_classes=(0, 1)) > 0.9
    assert lesion(wide) > 0.9  # the folder says it
    assert lesion(wide, known_classes=(0, 1, 2)) < 0.1  # as if it were known to be absent


def test_another_fit_compares_what_its_own_batches_know(data):
    """What was traced for one data set does not stay for the next."""
    x, y = data
    p = np.tile(np.array([0.1, 0.9, 1e-30]), (8, 16, 16, 1))

    class Known(keras.utils.PyDataset):
        known_classes = (0, 1)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, {"mask": y, "soft_targets": np.log(p).astype("float32")}

    distiller = compiled(kdcore.Distiller(build(2), alpha=1.0))
    distiller.optimizer.learning_rate = 0.0
    losses = []
    for known in ((0, 1), None, (0, 1)):
        Known.known_classes = known
        losses.append(distiller.fit(Known(), verbose=0).history["soft_loss"][0])
    assert losses[0] == approx(losses[2], rel=1e-3) and losses[1] > losses[0] + 0.1


def test_impossible_known_classes_are_refused(tmp_path):
    for known in ((0,), (0, 0), (0, 3), (-1, 0), ()):
        with pytest.raises(ValueError, match="two or more of the student's 3 classes"):
            kdcore.Distiller(build(), known_classes=known)
    with pytest.raises(ValueError, match=r"say which: known_classes=\(0, 1\)"):
        kdcore.Distiller(build(), build(1, classes=2))
    distiller = compiled(kdcore.Distiller(build(), build(1, classes=2), known_classes=[0, 2]))
    distiller.save(tmp_path / "d.keras")
    assert keras.saving.load_model(tmp_path / "d.keras").known_classes == (0, 2)


# --- what nobody could look into before -----------------------------------------------------


class Blind(keras.utils.PyDataset):
    """A data set that does not say its targets before training."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x, self.y


def test_soft_targets_that_are_no_log_probabilities_are_noticed(data, log_p):
    x, y = data
    log_p = log_p.astype("float32")
    for soft in (np.exp(log_p), log_p + 3):  # probabilities, logits
        # Where every step is run by itself the values themselves are seen.
        with pytest.raises(ValueError, match="the first step, soft_loss is NaN|these are probabil"):
            compiled(kdcore.Distiller(build())).fit(
                Blind(x, {"mask": y, "soft_targets": soft}), verbose=0
            )
    with pytest.raises(ValueError, match="the first step, hard_loss is NaN|labels from 7 to 9"):
        compiled(kdcore.Distiller(build(), alpha=0.0)).fit(Blind(x, y + 7), verbose=0)
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    right = Blind(x, {"mask": y, "soft_targets": log_p + 1e-3})  # rounding
    compiled(kdcore.Distiller(build())).fit(right, verbose=0, callbacks=watch)
    assert seen == [0]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data is TensorFlow's")
def test_soft_targets_of_tf_data_are_noticed(data, log_p):
    import tensorflow as tf

    x, y = data
    soft = np.exp(log_p.astype("float32"))
    dataset = tf.data.Dataset.from_tensor_slices((x, {"mask": y, "soft_targets": soft})).batch(4)
    with pytest.raises(ValueError, match=r"soft_loss is NaN.*log-probabilities: pass np.log"):
        compiled(kdcore.Distiller(build()), eager=False).fit(dataset, verbose=0)


# --- saving -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [kdcore.cross_entropy, kdcore.dice_cross_entropy])
def test_a_loss_that_is_a_function_leaves_out_voxels_without_a_label(data, loss):
    """Keras gives a function no weights, so −1 would count as background."""
    x, y = data
    half = y.copy()
    half[:, :8] = -1
    student = build()
    distiller = compiled(kdcore.Distiller(student), loss=loss)
    expected = float(loss(half, student.predict(x, verbose=0)))
    found = distiller.evaluate(x, half, verbose=0, return_dict=True)["loss"]
    assert found == approx(expected, rel=1e-3)  # the mean over two batches


def dice_of_all(y, logits):
    """As many write it: one number, in which −1 cannot be told from background."""
    p = keras.ops.softmax(logits)[..., 1]
    y = keras.ops.cast(y == 1, p.dtype)
    return 1 - 2 * keras.ops.sum(y * p) / keras.ops.sum(y + p)


@pytest.mark.parametrize("eager", [True, False])
def test_a_hard_loss_of_one_number_cannot_leave_out_voxels(data, eager):
    x, y = data
    distiller = compiled(kdcore.Distiller(build(), build(1)), eager=eager, loss=dice_of_all)
    distiller.evaluate(x, y, verbose=0)
    fit(distiller, x, y)
    half = np.where(np.arange(16) < 8, -1, y)
    with pytest.raises(ValueError, match="a hard loss of one number for the whole batch"):
        fit(distiller, x, half)


def test_a_teacher_beside_soft_targets_would_not_be_asked(data, log_p):
    x, y = data
    distiller = compiled(kdcore.Distiller(build(), build(1)))
    with pytest.raises(ValueError, match="only one of them can be imitated"):
        fit(distiller, x, {"mask": y, "soft_targets": log_p})


def test_compile_builds_the_optimizer_for_the_student_alone():
    student, teacher = (kdcore.unet((16, 16, 1), 3, filters=2, depth=1) for _ in range(2))
    distiller = kdcore.Distiller(student, teacher)
    distiller.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    momenta = [tuple(v.shape) for v in distiller.optimizer.variables[2:]]  # after iteration, rate
    assert momenta == [tuple(v.shape) for v in student.trainable_variables]
    distiller.compile(optimizer=None)  # to evaluate only
    assert distiller.optimizer is None


@pytest.mark.job
def test_save_load_and_go_on_with_the_optimizer(tmp_path, data):
    distiller = kdcore.Distiller(build(2), build(1, 4), temperature=3.0, alpha=0.3)
    distiller.compile(optimizer=keras.optimizers.Adam(0.01))
    fit(distiller, *data, epochs=2)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras", safe_mode=True)
    assert (again.temperature, again.alpha) == (3.0, 0.3)
    assert int(again.optimizer.iterations) == int(distiller.optimizer.iterations) == 4
    a, b = fit(distiller, *data), fit(again, *data)
    assert a["loss"][0] == approx(b["loss"][0], rel=1e-6)
    for x, y in zip(weights(distiller.student), weights(again.student), strict=True):
        np.testing.assert_allclose(x, y, atol=0 if BACKEND == "tensorflow" else 1e-5)


def test_checkpoint_of_the_student_alone(tmp_path, data):
    student = build(2)
    distiller = compiled(kdcore.Distiller(student, build(1, 8)))
    path = tmp_path / "student.keras"
    fit(distiller, *data, callbacks=[kdcore.StudentCheckpoint(path)])
    alone = keras.saving.load_model(path)
    assert alone.count_params() == student.count_params()
    assert same(weights(alone), weights(student))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, data, log_p):
    if BACKEND == "torch" and policy == "mixed_float16":
        pytest.skip("PyTorch has no float16 convolution gradients on every CPU")
    keras.config.set_dtype_policy(policy)
    try:
        distiller = compiled(kdcore.Distiller(build(2)))
        history = fit(distiller, data[0], {"mask": data[1], "soft_targets": log_p}, epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()


# --- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_impossible_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must lie in"):
        kdcore.Distiller(build(), alpha=alpha)


def test_impossible_networks_are_refused():
    student = build()
    with pytest.raises(ValueError, match="same model"):
        kdcore.Distiller(student, student)
    with pytest.raises(ValueError, match="4 output channels and the student 3"):
        kdcore.Distiller(build(), build(1, classes=4))
    with pytest.raises(ValueError, match="must be a keras.Model"):
        kdcore.Distiller(build(), lambda x: x)
    with pytest.raises(ValueError, match="temperature"):
        kdcore.Distiller(build(), temperature=0)
    frozen = build()
    frozen.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        kdcore.Distiller(frozen)


def test_a_3d_teacher_does_not_run_along_with_a_2d_student():
    with pytest.raises(ValueError, match=r"maps are 3-D, the student's 2-D.*SoftTargets.write"):
        kdcore.Distiller(build(), kdcore.unet((8, 16, 16, 1), 3, filters=2, depth=1))


def test_class_weights_are_told_to_be_voxel_weights(data):
    with pytest.raises(ValueError, match=r"sample_weight=weights\[mask\]"):
        compiled(kdcore.Distiller(build(), alpha=0.0)).fit(*data, class_weight={0: 1.0, 1: 2.0})


def test_several_outputs_are_refused():
    inputs = keras.Input(SHAPE)
    outputs = [keras.layers.Conv2D(3, 1)(inputs) for _ in range(2)]
    with pytest.raises(ValueError, match="student has 2 outputs"):
        kdcore.Distiller(keras.Model(inputs, outputs))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probability_heads_are_refused(activation):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation=activation)(inputs))
    with pytest.raises(ValueError, match=f"ends in {activation}"):
        kdcore.Distiller(build(), model)


def test_a_teacher_of_another_size_never_broadcasts(data):
    inputs = keras.Input((None, None, 1))
    z = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    teacher = keras.Model(inputs, keras.layers.Conv2D(3, 1)(z))
    with pytest.raises(Exception, match="same shape|reshape|Reshape|size"):
        fit(compiled(kdcore.Distiller(build(), teacher)), *data)


def test_impossible_targets_are_refused_before_training(data, log_p):
    x, y = data
    for label in (7, 255):
        wrong = np.where(y == 2, label, y).astype("uint8")
        with pytest.raises(ValueError, match="The mask holds labels"):
            fit(compiled(kdcore.Distiller(build(), alpha=0.0)), x, wrong)
    with pytest.raises(ValueError, match="Soft targets are log-probabilities"):
        soft = np.exp(log_p.astype("float32"))
        fit(compiled(kdcore.Distiller(build())), x, {"mask": y, "soft_targets": soft})


def test_unknown_keys_of_y_are_refused(data):
    with pytest.raises(ValueError, match="y must be a mask or"):
        fit(compiled(kdcore.Distiller(build())), data[0], {"masks": data[1]})


# --- replicas ---------------------------------------------------------------------------


SCRIPTS = {"tensorflow": "replicas.py", "jax": "devices.py"}


@pytest.mark.job
@pytest.mark.skipif(BACKEND not in SCRIPTS, reason="Keras distributes on TensorFlow and JAX")
def test_two_devices_give_the_update_of_one():
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).with_name(SCRIPTS[BACKEND])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "largest difference" in done.stdout

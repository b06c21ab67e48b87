"""Numbers a reader can check by hand, invariances, and peers' faults as regressions."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from pytest import approx

import kdcore
from kdcore.losses import mean_teacher_logits

LOSSES = [kdcore.kd_loss, kdcore.channel_wise_loss, kdcore.regional_kd_loss]
FAST = settings(max_examples=25, deadline=None)


def gradient(function, x):
    """d function(x) / dx on any backend."""
    x = np.asarray(x, "float32") if not hasattr(x, "dtype") else x
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return np.asarray(tf.cast(tape.gradient(value, tensor), tf.float32))
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(ops.convert_to_tensor(x)), "float32")

    tensor = ops.convert_to_tensor(x).clone().detach().requires_grad_()
    function(tensor).backward()
    return tensor.grad.float().cpu().numpy()


def logits_pairs(channels=st.integers(1, 4)):
    return st.tuples(st.integers(0, 2**31), channels, st.floats(0.5, 8.0))


def draw(seed, channels, shape=(2, 4, 3), scale=3.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.normal(size=(*shape, channels)).astype("float32") for _ in range(2)]


def reference_kd(teacher, student, temperature):
    """T² · mean KL in float64, straight from the definition."""
    t, s = (np.asarray(z, np.float64) / temperature for z in (teacher, student))
    if t.shape[-1] == 1:
        t, s = (np.concatenate([np.zeros_like(z), z], axis=-1) for z in (t, s))
    log_p = t - np.logaddexp.reduce(t, axis=-1, keepdims=True)
    log_q = s - np.logaddexp.reduce(s, axis=-1, keepdims=True)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def test_kd_loss_by_hand():
    # p = (0.1, 0.9), q = (0.5, 0.5): KL = 0.1 ln 0.2 + 0.9 ln 1.8 = 0.368064
    teacher, student = np.array([[0.0, np.log(9.0)]]), np.zeros((1, 2))
    assert float(kdcore.kd_loss(teacher, student, 1.0)) == approx(0.368064, abs=1e-6)


def test_kd_loss_at_temperature_two_by_hand():
    # z/T = (0, ln 3): p = (1/4, 3/4); T² KL = 4 (0.25 ln 0.5 + 0.75 ln 1.5) = 0.523248
    teacher, student = np.array([[0.0, np.log(9.0)]]), np.zeros((1, 2))
    assert float(kdcore.kd_loss(teacher, student, 2.0)) == approx(0.523248, abs=1e-6)


def test_one_channel_is_bernoulli_by_hand():
    # sigmoid(ln 9) = 0.9 against 0.5: the same 0.368064, not 0 as a softmax over 1 channel
    teacher, student = np.full((1, 2, 2, 1), np.log(9.0)), np.zeros((1, 2, 2, 1))
    assert float(kdcore.kd_loss(teacher, student, 1.0)) == approx(0.368064, abs=1e-6)
    assert np.all(gradient(lambda z: kdcore.kd_loss(teacher, z, 1.0), student) != 0)


@FAST
@given(logits_pairs())
def test_kd_loss_equals_float64_definition(drawn):
    seed, channels, temperature = drawn
    teacher, student = draw(seed, channels)
    expected = reference_kd(teacher, student, temperature)
    value = float(kdcore.kd_loss(teacher, student, temperature))
    assert value == approx(expected, rel=1e-4, abs=1e-6)
    assert value >= -1e-6


@FAST
@given(logits_pairs(st.integers(2, 4)), st.floats(-20, 20))
def test_a_constant_added_to_all_logits_changes_nothing(drawn, constant):
    seed, channels, temperature = drawn
    teacher, student = draw(seed, channels)
    for loss in LOSSES:
        before = float(loss(teacher, student, temperature))
        after = float(loss(teacher, student + np.float32(constant), temperature))
        assert after == approx(before, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_equal_logits_give_zero_loss_and_zero_gradient(loss, channels):
    logits, _ = draw(0, channels)
    assert float(loss(logits, logits, 3.0)) == approx(0, abs=1e-6)
    slope = gradient(lambda z: loss(logits, z, 3.0), logits)
    assert np.abs(slope).max() < 1e-6


def test_gradient_matches_hinton_equation_2():
    # dC/dz_i = T (q_i − p_i) / voxels
    teacher, student = draw(1, 3)
    for temperature in (1.0, 4.0):
        p, q = (
            np.exp(z / temperature) / np.exp(z / temperature).sum(-1, keepdims=True)
            for z in (teacher, student)
        )
        expected = temperature * (q - p) / np.prod(student.shape[:-1])
        received = gradient(lambda z, t=temperature: kdcore.kd_loss(teacher, z, t), student)
        np.testing.assert_allclose(received, expected, atol=1e-6)


def test_high_temperature_is_centred_logit_matching():
    # Hinton et al. 2015, section 2.1: T² dC/dz -> ((z − z̄) − (v − v̄)) / C
    teacher, student = draw(2, 4, scale=1.0)
    expected = (student - student.mean(-1, keepdims=True)) - (
        teacher - teacher.mean(-1, keepdims=True)
    )
    expected /= 4 * np.prod(student.shape[:-1])
    received = gradient(lambda z: kdcore.kd_loss(teacher, z, 200.0), student)
    np.testing.assert_allclose(received, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 2])
def test_finite_with_gradient_at_extreme_logits(dtype, channels):
    # Keras' loss is capped at 16.1 there, with gradient exactly 0.
    teacher = np.zeros((1, 2, 2, channels), "float32")
    teacher[..., -1] = 30.0
    student = ops.cast(-teacher, dtype)
    value = float(kdcore.kd_loss(ops.cast(teacher, dtype), student, 1.0))
    assert value == approx(60.0 if channels == 2 else 30.0, rel=0.51)
    assert np.isfinite(value) and value > 20
    slope = gradient(lambda z: kdcore.kd_loss(ops.cast(teacher, dtype), z, 1.0), student)
    assert np.isfinite(slope).all() and np.abs(slope[..., -1]).min() > 0.2


@pytest.mark.parametrize("loss", LOSSES)
def test_every_image_of_a_batch_counts(loss):
    teacher, student = draw(7, 3, shape=(5, 4, 4))
    slope = gradient(lambda z: loss(teacher, z, 2.0), student)
    assert np.abs(slope).max(axis=(1, 2, 3)).min() > 0


def test_random_logits_leave_no_gradient_at_zero():
    # Keras' default LogitsDistillation gives an exact 0 for about 70 % of these.
    teacher, student = draw(3, 5)
    assert np.all(gradient(lambda z: kdcore.kd_loss(teacher, z, 3.0), student) != 0)


def test_mean_does_not_depend_on_image_size_or_batch():
    teacher, student = draw(4, 3)
    tile = lambda z: np.tile(z, (3, 2, 4, 1))  # noqa: E731
    small = float(kdcore.kd_loss(teacher, student, 2.0))
    assert float(kdcore.kd_loss(tile(teacher), tile(student), 2.0)) == approx(small, rel=1e-5)


def test_sample_weight_is_a_weighted_mean():
    teacher, student = draw(5, 3)
    weight = np.zeros(teacher.shape[:-1], "float32")
    weight[1, 2] = 2.0
    expected = float(kdcore.kd_loss(teacher[1:, 2:3], student[1:, 2:3], 2.0))
    assert float(kdcore.kd_loss(teacher, student, 2.0, weight)) == approx(expected, rel=1e-5)
    one_image = float(kdcore.kd_loss(teacher, student, 2.0, np.array([0.0, 1.0])))
    assert one_image == approx(float(kdcore.kd_loss(teacher[1:], student[1:], 2.0)), rel=1e-5)
    assert float(kdcore.kd_loss(teacher, student, 2.0, np.zeros(2))) == 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_no_gradient_reaches_the_teacher(loss):
    teacher, student = draw(6, 3)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(teacher)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = loss(tensor, student, 2.0)
        assert tape.gradient(value, tensor) is None
    elif backend == "jax":
        assert not gradient(lambda z: loss(z, student, 2.0), teacher).any()
    else:
        assert not loss(ops.convert_to_tensor(teacher), student, 2.0).requires_grad


def test_ensemble_identity():
    # Σ_k KL(p_k ‖ q) and K · KL(p̄ ‖ q) have the same gradient.
    teachers, student = [draw(seed, 3)[0] for seed in range(3)], draw(9, 3)[1]
    each = lambda z: sum(kdcore.kd_loss(t, z, 1.0) for t in teachers) / 3  # noqa: E731
    mean = lambda z: kdcore.kd_loss(mean_teacher_logits(teachers), z, 1.0)  # noqa: E731
    np.testing.assert_allclose(gradient(each, student), gradient(mean, student), atol=1e-6)


def test_mean_teacher_of_bernoulli_networks_averages_probabilities():
    logits = [np.full((1, 1, 1), np.log(p / (1 - p)), "float32") for p in (0.2, 0.6)]
    z = float(ops.convert_to_numpy(mean_teacher_logits(logits)).item())
    assert 1 / (1 + np.exp(-z)) == approx(0.4, rel=1e-5)


# --- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_teacher_that_is_certain(loss):
    """Log-probabilities of one-hot labels: 0 · log 0 is 0, and the student's gradient finite."""
    teacher = np.array([[[0.0, -np.inf], [-np.inf, 0.0]]], "float32")
    student = np.array([[[0.5, -0.5], [0.25, 0.0]]], "float32")
    value, nearly = (
        float(loss(t, student, 1.0)) for t in (teacher, np.maximum(teacher, -60).astype("float32"))
    )
    assert value == approx(nearly, rel=1e-5) and np.isfinite(value)
    assert np.isfinite(gradient(lambda z: loss(teacher, z, 1.0), student)).all()


def test_certain_teacher_by_hand():
    """A student without an opinion is log 2 from any label."""
    teacher = np.where(np.eye(2)[None] > 0, 0.0, -np.inf).astype("float32")
    assert float(kdcore.kd_loss(teacher, np.zeros((1, 2, 2)), 1.0)) == approx(np.log(2))
    assert float(kdcore.kd_loss([[[np.inf]]], [[[0.0]]], 1.0)) == approx(np.log(2))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
def test_the_scale_of_weights_does_not_matter(scale, rng):
    y, p = rng.dirichlet([1, 1], (2, 5)), rng.dirichlet([1, 1], (2, 5))
    weight = np.array([1.0, 3.0])
    expected = float(kdcore.soft_dice_loss(y, p, weight))
    assert float(kdcore.soft_dice_loss(y, p, scale * weight)) == approx(expected, rel=1e-5)
    mask = rng.integers(0, 2, (2, 5))
    expected = float(kdcore.dice_cross_entropy(mask, np.log(p), weight))
    received = float(kdcore.dice_cross_entropy(mask, np.log(p), scale * weight))
    assert received == approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), 1001])
def test_impossible_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        kdcore.kd_loss(np.zeros((1, 2)), np.zeros((1, 2)), temperature)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 4, 4, 3), (2, 4, 4, 1), (4, 4, 3)])
def test_other_shapes_never_broadcast(loss, shape):
    with pytest.raises(ValueError, match="must have the same shape"):
        loss(np.zeros(shape, "float32"), np.zeros((2, 4, 4, 3), "float32"), 1.0)


@pytest.mark.parametrize("role", [0, 1])
def test_probabilities_are_refused(role, rng):
    pair = draw(0, 3)
    pair[role] = rng.dirichlet([1, 1, 1], pair[role].shape[:-1]).astype("float32")
    with pytest.raises(ValueError, match="Expected raw logits"):
        kdcore.kd_loss(*pair, 2.0)


def test_half_precision_probabilities_are_refused(rng):
    p = rng.dirichlet([1, 1, 1], (2, 4, 3)).astype("float16")
    with pytest.raises(ValueError, match="Expected raw logits"):
        kdcore.kd_loss(p, draw(0, 3)[1], 2.0)


def test_log_probabilities_are_logits(rng):
    p = rng.dirichlet([1, 1, 1], (2, 4, 3)).astype("float32")
    _, student = draw(0, 3)
    value = float(kdcore.kd_loss(np.log(p), student, 2.0))
    assert value == approx(reference_kd(np.log(p), student, 2.0), rel=1e-4)


def test_wrong_weight_shape_is_refused():
    with pytest.raises(ValueError, match="sample_weight of shape"):
        kdcore.kd_loss(*draw(0, 3), 1.0, np.ones(5))


@pytest.mark.parametrize("shape", [(4, 4, 4, 1), (4, 4), (4, 1), (4,)])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_never_line_up_with_the_wrong_axis(loss, shape, rng):
    # With batch = height = width a weight of another rank would broadcast silently.
    teacher, student = draw(8, 3, shape=(4, 4, 4))
    weight = rng.uniform(0.5, 2, shape).astype("float32")
    full = weight.reshape(*shape, *[1] * (4 - len(shape)))[..., 0] * np.ones((4, 4, 4), "float32")
    expected = float(loss(teacher, student, 2.0, full))
    assert float(loss(teacher, student, 2.0, weight)) == approx(expected, rel=1e-4)


# --- soft Dice --------------------------------------------------------------------------


def test_soft_dice_by_hand():
    # class 0: y = (1, 0), p = (.8, .4): (.04 + .16) / (1 + .8) = 1/9
    # class 1: y = (0, 1), p = (.2, .6): (.04 + .16) / (1 + .4) = 1/7
    y = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    p = np.array([[[0.8, 0.2], [0.4, 0.6]]])
    assert float(kdcore.soft_dice_loss(y, p)) == approx((1 / 9 + 1 / 7) / 2, rel=1e-5)


def test_soft_dice_perfect_wrong_and_absent():
    one_hot = np.eye(3, dtype="float32")[np.array([[0, 0, 1, 1]])]
    assert float(kdcore.soft_dice_loss(one_hot, one_hot)) == approx(0, abs=1e-6)
    wrong = np.roll(one_hot[..., :2], 1, axis=-1)
    assert float(kdcore.soft_dice_loss(one_hot[..., :2], wrong)) == approx(1, rel=1e-5)


@FAST
@given(st.integers(0, 2**31))
def test_soft_dice_is_smallest_at_the_soft_target(seed):
    rng = np.random.default_rng(seed)
    y, p = (rng.dirichlet([1, 1, 1], (2, 3, 3)).astype("float32") for _ in range(2))
    at_target = float(kdcore.soft_dice_loss(y, y))
    assert at_target == approx(0, abs=1e-6)
    assert float(kdcore.soft_dice_loss(y, p)) > at_target
    assert np.abs(gradient(lambda q: kdcore.soft_dice_loss(y, q), y)).max() < 1e-6


def test_half_is_learned_as_half():
    # The linear form is smallest at p = 1 for y = 0.5 (0.333 against 0.5 at p = y).
    y = np.full((1, 4, 1), 0.5, "float32")
    losses = {p: float(kdcore.soft_dice_loss(y, np.full_like(y, p))) for p in (0.4, 0.5, 0.6, 1)}
    assert min(losses, key=losses.get) == 0.5


# --- hard losses ------------------------------------------------------------------------


def test_cross_entropy_by_hand_and_ignored_voxels():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], "float32"))
    mask = np.array([[0, 2]])
    expected = -(np.log(0.5) + np.log(0.7)) / 2
    assert float(kdcore.cross_entropy(mask, logits)) == approx(expected, rel=1e-5)
    mask[0, 1] = -1
    assert float(kdcore.cross_entropy(mask, logits)) == approx(np.log(2), rel=1e-5)
    assert float(kdcore.cross_entropy(np.full((1, 2), -1), logits)) == 0.0


def test_one_channel_cross_entropy_is_binary():
    logits = np.array([[[np.log(3.0)], [0.0]]], "float32")  # p = 3/4, 1/2
    value = float(kdcore.cross_entropy(np.array([[1, 0]]), logits))
    assert value == approx((-np.log(0.75) + np.log(2)) / 2, rel=1e-5)


def test_absent_class_puts_no_dice_gradient_on_the_logits(rng):
    # Counting it pushes its probability to zero: the way a student collapses.
    logits = rng.normal(size=(1, 4, 4, 3)).astype("float32")
    mask = np.zeros((1, 4, 4), "int32")
    dice = lambda z: kdcore.dice_cross_entropy(mask, z, dice_weight=1.0)  # noqa: E731
    assert float(dice(logits)) == 0.0
    assert not gradient(dice, logits).any()


def test_unlabelled_images_carry_no_hard_term(rng):
    logits = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    mask = rng.integers(0, 3, (2, 4, 4))
    half = mask.copy()
    half[1] = -1
    expected = float(kdcore.dice_cross_entropy(mask[:1], logits[:1]))
    assert float(kdcore.dice_cross_entropy(half, logits)) == approx(expected, rel=1e-5)
    slope = gradient(lambda z: kdcore.dice_cross_entropy(half, z), logits)
    assert slope[0].any() and not slope[1].any()


def test_dice_cross_entropy_is_half_and_half(rng):
    logits = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    mask = rng.integers(0, 3, (2, 4, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    one_hot = np.eye(3)[mask]
    dice = float(kdcore.soft_dice_loss(one_hot[..., 1:], p[..., 1:]))
    expected = 0.5 * dice + 0.5 * float(kdcore.cross_entropy(mask, logits))
    assert float(kdcore.dice_cross_entropy(mask, logits)) == approx(expected, rel=1e-5)
    assert float(kdcore.DiceCrossEntropy()(mask, logits)) == approx(expected, rel=1e-5)


def test_label_smoothing_by_hand():
    logits = np.log(np.array([[[0.5, 0.25, 0.25]]], "float32"))
    value = kdcore.dice_cross_entropy(np.array([[0]]), logits, dice_weight=0.0, label_smoothing=0.3)
    expected = -(0.8 * np.log(0.5) + 0.2 * np.log(0.25))
    assert float(value) == approx(expected, rel=1e-5)


def test_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="one integer a voxel"):
        kdcore.cross_entropy(np.zeros((2, 4)), np.zeros((2, 4, 4, 3), "float32"))


@pytest.mark.parametrize("label", [3, 255, -2])
def test_labels_that_do_not_exist_are_refused(label):
    mask = np.full((1, 2, 2), label)
    with pytest.raises(ValueError, match="The mask holds labels from"):
        kdcore.cross_entropy(mask, np.zeros((1, 2, 2, 3), "float32"))


def test_loss_object_survives_its_config():
    loss = kdcore.DiceCrossEntropy(dice_weight=0.25, label_smoothing=0.1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.dice_weight, again.label_smoothing) == (0.25, 0.1)


# --- channel-wise -----------------------------------------------------------------------


def test_channel_wise_by_hand():
    # One channel, two voxels: softmax over space of (0, ln 3) = (1/4, 3/4) against (1/2, 1/2)
    teacher = np.array([[[0.0], [np.log(3.0)]]])
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    value = float(kdcore.channel_wise_loss(teacher, np.zeros((1, 2, 1)), 1.0))
    assert value == approx(expected, rel=1e-5)


def test_channel_wise_weights_large_logits_exactly():
    """p = (1/3, 2/3); log q = (0, log 2 − 1000): KL = 2/3 · 1000 − log 3."""
    teacher = np.full((1, 2, 1), 120_000.0, "float32")
    student = np.array([[[1000.0], [0.0]]], "float32")
    value = float(
        kdcore.channel_wise_loss(teacher, student, 1.0, np.array([[1.0, 2.0]], "float32"))
    )
    assert value == approx(2000 / 3 - np.log(3), rel=1e-6)


def test_channel_wise_sees_each_channel_on_its_own_scale(rng):
    teacher, student = draw(0, 2)
    shifted = student + np.array([5.0, -3.0], "float32")
    a, b = (float(kdcore.channel_wise_loss(teacher, s, 4.0)) for s in (student, shifted))
    assert a == approx(b, rel=1e-4)


def test_channel_wise_weights_leave_voxels_out():
    teacher, student = draw(1, 2, shape=(1, 4, 4))
    weight = np.ones((1, 4, 4), "float32")
    weight[:, 2:] = 0
    value = float(kdcore.channel_wise_loss(teacher, student, 2.0, weight))
    expected = float(kdcore.channel_wise_loss(teacher[:, :2], student[:, :2], 2.0))
    assert value == approx(expected, rel=1e-4)


def test_the_regional_loss_is_kl_plus_dice_over_the_foreground(rng):
    a, b = (rng.normal(size=(2, 6, 5, 3)).astype(np.float32) for _ in range(2))
    softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)  # noqa: E731
    p, q = softmax(a)[..., 1:], softmax(b)[..., 1:]
    space = (0, 1, 2)
    dice = np.mean(((p - q) ** 2).sum(space) / (p**2 + q**2).sum(space))
    expected = float(kdcore.kd_loss(a, b, 3.0)) + dice
    assert float(kdcore.regional_kd_loss(a, b, 3.0)) == pytest.approx(expected, abs=1e-5)


def test_pseudo_labels_are_the_hard_loss_of_the_teachers_labels(rng):
    teacher, student = (rng.normal(size=(2, 6, 5, 3)).astype(np.float32) for _ in range(2))
    expected = float(kdcore.dice_cross_entropy(teacher.argmax(-1), student))
    for temperature in (1.0, 4.0):  # moves no maximum
        found = float(kdcore.pseudo_label_loss(teacher, student, temperature))
        assert found == pytest.approx(expected, abs=1e-6)
    labels = (teacher[..., 0] > 0).astype("int32")
    found = float(kdcore.pseudo_label_loss(teacher[..., :1], student[..., :1]))
    assert found == pytest.approx(float(kdcore.dice_cross_entropy(labels, student[..., :1])))


def test_pseudo_labels_forget_how_sure_the_teacher_was(rng):
    teacher, student = (rng.normal(size=(2, 6, 5, 3)).astype(np.float32) for _ in range(2))
    unsure = float(kdcore.pseudo_label_loss(0.01 * teacher, student))
    assert unsure == pytest.approx(float(kdcore.pseudo_label_loss(teacher, student)), abs=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="JAX and PyTorch know all sizes"
)
def test_height_and_width_exchanged_are_noticed_when_no_size_is_known(rng):
    """As many values, so that reshaping would mix them up without a word."""
    import tensorflow as tf

    unknown = tf.TensorSpec((None, None, None, 3))
    loss = tf.function(lambda v, z: kdcore.kd_loss(v, z, 2.0), input_signature=[unknown, unknown])
    logits = rng.normal(size=(2, 4, 6, 3)).astype("float32")
    assert float(loss(logits, logits)) == approx(0.0, abs=1e-6)
    assert np.isnan(float(loss(logits, logits.transpose(0, 2, 1, 3))))

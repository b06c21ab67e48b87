"""Regions that may overlap, a sigmoid each: from the case to the score, and refused elsewhere."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore
from kdcore.data import to_regions
from kdcore.ensemble import ensemble, fit_temperature
from kdcore.evaluation import agreement, table_of
from kdcore.evaluation.scores import by_seed
from kdcore.losses import dice_binary_cross_entropy
from kdcore.soft_targets import SoftTargetsError

REGIONS = {"whole": (1, 2), "core": (2,)}


def regional(index, labelled=True):
    return to_regions(make_case(index, labelled=labelled), REGIONS)


def network(channels=2, filters=2, seed=0):
    keras.utils.set_random_seed(seed)
    return kdcore.unet((None, None, 1), channels, filters=filters, depth=1)


def said(p):
    """A teacher that says the same of every voxel: one probability a region."""

    def teacher(case):
        return np.broadcast_to(np.float32(p), (*case.image.shape[:3], len(p)))

    teacher.digest = str(p)
    return teacher


# --- losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_soft_loss_is_a_divergence_a_channel(temperature):
    teacher = np.array([[[temperature * np.log(9.0), 0.0]]])  # at T: p = 0.9 and 0.5
    student = np.zeros((1, 1, 2))  # q = 0.5 and 0.5
    expected = temperature**2 * (0.9 * np.log(1.8) + 0.1 * np.log(0.2) + 0.0) / 2
    loss = kdcore.bernoulli_kd_loss(teacher, student, temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_softmax_over_regions_would_say_something_else():
    both = np.full((1, 4, 2), 3.0)  # in both regions
    neither = np.full((1, 4, 2), -3.0)
    assert float(kdcore.kd_loss(both, neither, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(kdcore.bernoulli_kd_loss(both, neither, 1.0)) > 2.5


def test_the_regional_one_adds_the_dice_of_each_region():
    teacher, student = np.array([[[30.0, -30.0]]]), np.zeros((1, 1, 2))  # p = 1, 0; q = ½, ½
    dice = (0.25 / 1.25 + 0.25 / 0.25) / 2
    voxels = kdcore.bernoulli_kd_loss(teacher, student, 2.0)
    both = kdcore.regional_bernoulli_kd_loss(teacher, student, 2.0)
    assert float(both - voxels) == pytest.approx(dice, rel=1e-4)


def test_weights_of_images_and_voxels():
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=(2, 2, 3, 4, 2))
    first = kdcore.bernoulli_kd_loss(t[:1], s[:1], 2.0)
    assert float(kdcore.bernoulli_kd_loss(t, s, 2.0, np.array([1.0, 0.0]))) == pytest.approx(
        float(first), rel=1e-5
    )
    voxels = np.zeros((2, 3))
    voxels[0, 1] = 1
    one = kdcore.bernoulli_kd_loss(t[:1, 1:2], s[:1, 1:2], 2.0)
    assert float(kdcore.bernoulli_kd_loss(t[:, :, 0], s[:, :, 0], 2.0, voxels)) == pytest.approx(
        float(kdcore.bernoulli_kd_loss(t[:1, 1:2, 0], s[:1, 1:2, 0], 2.0)), rel=1e-5
    )
    assert np.isfinite(float(one))


def test_the_hard_loss_by_hand():
    mask = np.array([[[1, 0], [1, -1]]])  # two voxels; nobody looked for region 1 in the second
    logits = np.zeros((1, 2, 2))
    dice = 2 * 0.25 / (2 * 1 + 2 * 0.25)  # of region 0; region 1 is in no labelled voxel
    expected = 0.5 * dice + 0.5 * np.log(2)
    assert float(dice_binary_cross_entropy(mask, logits)) == pytest.approx(expected, rel=1e-5)
    loss = kdcore.DiceBinaryCrossEntropy(dice_weight=0.0)
    logits[0, 1, 1] = 50.0  # does not count
    assert float(loss(mask, logits)) == pytest.approx(np.log(2), rel=1e-5)
    assert float(loss(np.full((1, 2, 2), -1), logits)) == 0.0


def test_a_mask_of_labels_is_no_mask_of_regions():
    with pytest.raises(ValueError, match=r"holds 1 inside a region.*Received: 3"):
        dice_binary_cross_entropy(np.full((1, 4, 2), 3), np.zeros((1, 4, 2)))
    with pytest.raises(ValueError, match="must have the same shape"):
        dice_binary_cross_entropy(np.ones((1, 4)), np.zeros((1, 4, 2)))


# --- cases ---------------------------------------------------------------------------------


def test_labels_become_regions():
    case = make_case(0)
    mask = np.array(case.mask, np.int16)
    mask[0, 0, :2] = (-1, 2)
    made = to_regions(replace(case, mask=mask), REGIONS)
    assert made.regions == ("whole", "core") and made.mask.shape == (*mask.shape, 2)
    assert made.mask[0, 0, :2].tolist() == [[-1, -1], [1, 1]]
    assert (made.mask[..., 0] == 1).sum() == (mask > 0).sum()
    assert to_regions(make_case(0, labelled=False), REGIONS).mask is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"regions": None}, r"2 channels are regions.*name them.*regions="),
        ({"regions": ("whole",)}, r"Expected \(8, 26, 20, 1\)"),
        ({"regions": ("whole", "1")}, "name is no number"),
        ({"regions": "whole"}, "different names"),
        ({"regions": ("a", "a")}, "different names"),
    ],
)
def test_what_a_case_refuses(change, match):
    with pytest.raises(ValueError, match=match):
        replace(regional(0), **change)


def test_labels_in_a_channel_are_refused():
    mask = np.array(regional(0).mask)
    with pytest.raises(ValueError, match=r"holds 2; expected 1 inside.*to_regions"):
        replace(regional(0), mask=mask * 2)
    with pytest.raises(ValueError, match="and no labels"):
        to_regions(regional(0), REGIONS)
    with pytest.raises(ValueError, match="and no labels"):
        kdcore.data.relabel(regional(0), {1: 2})


def test_regions_move_with_the_scan():
    case = replace(regional(0), affine=np.eye(4))
    fine = kdcore.resample(case, 0.5)
    assert fine.mask.shape == (*fine.image.shape[:3], 2) and fine.regions == case.regions
    assert kdcore.resample(fine, 1.0).mask.tolist() == case.mask.tolist()
    turned = kdcore.reorient(case, "SPR")
    assert turned.mask.shape == (*turned.image.shape[:3], 2)
    volume = (case.mask == 1).sum(axis=(0, 1, 2))
    assert (turned.mask == 1).sum(axis=(0, 1, 2)).tolist() == volume.tolist()


# --- on the way ----------------------------------------------------------------------------


def test_soft_targets_of_regions_are_logits(tmp_path):
    cases = [regional(0), regional(1, labelled=False)]
    soft = kdcore.SoftTargets.write(said((0.9, 0.5)), cases, tmp_path)
    assert soft.regions == ("whole", "core") and soft.num_classes == 2
    assert soft["case_000"][0, 0, 0].tolist() == pytest.approx([np.log(9), 0.0], abs=1e-3)
    assert soft.probabilities("case_001")[0, 0, 0].tolist() == pytest.approx([0.9, 0.5], abs=1e-3)
    sure = kdcore.SoftTargets.write(said((1.0, 0.0)), cases, tmp_path / "sure")
    assert np.isfinite(sure["case_000"]).all()


def test_a_folder_of_regions_is_of_these(tmp_path):
    soft = kdcore.SoftTargets.write(said((0.5, 0.5)), [regional(0)], tmp_path)
    with pytest.raises(SoftTargetsError, match=r"regions was \['whole', 'core'\], is None"):
        kdcore.SoftTargets.write(said((0.5, 0.5)), [make_case(1)], tmp_path)
    with pytest.raises(SoftTargetsError, match=r"have None \(None: one label a voxel\)"):
        kdcore.Batches([make_case(0)], (26, 20), soft_targets=soft)
    plain = kdcore.SoftTargets.write(network(3), [make_case(0)], tmp_path / "plain")
    with pytest.raises(SoftTargetsError, match="holds soft targets of the regions None"):
        kdcore.Batches([regional(0)], (26, 20), soft_targets=plain)


@pytest.mark.parametrize(("moves", "alike"), [({}, 1.0), ({"rotate_deg": 15, "shift": 2}, 0.9)])
def test_batches_cut_and_move_regions_with_the_image(tmp_path, moves, alike):
    case = regional(0)
    inside = np.stack([case.image[..., 0], case.mask[..., 0], case.mask[..., 1]], axis=-1)
    case = replace(case, image=inside, sequences=("MRI", "whole", "core"))
    soft = kdcore.SoftTargets.write(said((0.9, 0.5)), [case], tmp_path, normalization=None)
    none = dict.fromkeys(("rotate_deg", "scale", "shift", "elastic", "gamma", "noise"), 0)
    batches = kdcore.Batches(
        [case],
        (20, 16),
        soft_targets=soft,
        normalization=None,
        augmentation=kdcore.Augmentation(flip_axes=(0, 1), **{**none, **moves}),
    )
    x, y = batches[0]
    assert y["mask"].shape == y["soft_targets"].shape == (len(x), 20, 16, 2)
    assert y["mask"].any() and (np.rint(x[..., 1:]) == y["mask"]).mean() >= alike


def test_foreground_of_regions_is_sought(tmp_path):
    cases = [regional(0), regional(1, labelled=False)]

    def teacher(case):
        return np.float32(to_regions(make_case(1), REGIONS).mask) * 0.9

    teacher.digest = "v1"
    soft = kdcore.SoftTargets.write(teacher, cases, tmp_path)
    batches = kdcore.Batches(cases, (4, 4), soft_targets=soft, foreground_share=1.0)
    for i in range(len(batches)):
        y = batches[i][1]
        shown = (y["mask"] == 1) | ((y["mask"] < 0) & (y["soft_targets"] > 0))
        assert shown.any(axis=(1, 2, 3)).all()


def test_cases_of_different_regions_do_not_mix():
    with pytest.raises(ValueError, match="different regions"):
        kdcore.Batches([regional(0), make_case(1)], (26, 20))


def test_what_a_network_says_of_regions():
    case, model = regional(0), network()
    p = kdcore.predict_probabilities(model, case)
    logits = model.predict_on_batch(kdcore.normalize(case.image))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits)), atol=1e-5)
    mask = kdcore.predict_mask(model, case)
    assert mask.shape == case.mask.shape and (mask == (p > 0.5)).all()
    with pytest.raises(ValueError, match=r"puts out 3 channels. Expected a logit a region"):
        kdcore.predict_mask(network(3), case)


def test_the_mean_of_several_is_of_each_region():
    case, models = regional(0), [network(seed=1), network(seed=2)]
    models[1].name = "other"
    mean = np.mean([kdcore.predict_probabilities(model, case) for model in models], axis=0)
    together = kdcore.predict_probabilities(ensemble(models, regions=True), case)
    np.testing.assert_allclose(together, mean, atol=1e-5)


def test_scores_are_of_each_region():
    case = regional(0)

    class Said:  # the whole rightly, and half of the core: its lower slices
        name, input_shape = "said", (None, 8, 26, 20, 1)

        def predict_on_batch(self, images):
            told = np.where(case.mask == 1, 5.0, -5.0)
            told[4:, ..., 1] = -5.0
            return told[None].astype(np.float32)

    scores = kdcore.evaluate(Said(), [case])
    core = case.mask[..., 1] == 1
    half = core[:4].sum()
    assert list(scores["case_000"]) == ["whole", "core"]
    assert scores["case_000"]["whole"]["dice"] == 1.0
    expected = 2 * half / (half + core.sum())
    assert scores["case_000"]["core"]["dice"] == pytest.approx(expected)
    assert kdcore.mean_dice(scores) == pytest.approx((1 + expected) / 2)
    assert by_seed(table_of(scores, arm="a"), "a").iloc[0, 0] == pytest.approx((1 + expected) / 2)
    assert agreement(Said(), [case], Said(), [case]) == {"case_000": 1.0}
    with pytest.raises(ValueError, match="has regions of its own"):
        kdcore.evaluate(Said(), [case], regions={"x": (1,)})


def test_voxels_where_a_region_was_not_labelled_do_not_count():
    case = regional(0)
    mask = np.array(case.mask, np.int16)
    mask[4:, ..., 1] = -1
    model = network()
    of_all = kdcore.evaluate(model, [case])["case_000"]
    of_some = kdcore.evaluate(model, [replace(case, mask=mask)])["case_000"]
    np.testing.assert_equal(of_some["whole"], of_all["whole"])  # distances may be NaN
    p = kdcore.predict_mask(model, case)[:4, ..., 1]
    assert of_some["core"]["dice"] == pytest.approx(
        kdcore.dice(mask[:4, ..., 1], p, 1), nan_ok=True
    )


def test_a_temperature_is_fitted_to_regions():
    case = regional(0)
    told = np.where(case.mask == 1, 2.0, -2.0)  # right in 88 %, as σ(2): well calibrated
    told = np.where(np.random.default_rng(0).random(told.shape) < 0.119, -told, told)

    class Said:
        name, input_shape = "said", (None, 8, 26, 20, 1)

        def predict_on_batch(self, images):
            return 3 * told[None].astype(np.float32)

    assert fit_temperature(Said(), [case]) == pytest.approx(3.0, rel=0.05)


# --- the distiller -------------------------------------------------------------------------


@pytest.mark.job
def test_a_student_learns_regions_from_its_teacher(tmp_path):
    labelled = [regional(i) for i in range(4)]
    unlabelled = [regional(i, labelled=False) for i in range(4, 8)]
    teacher = network(filters=4)
    teacher.compile(keras.optimizers.Adam(1e-2), loss=kdcore.DiceBinaryCrossEntropy())
    teacher.fit(kdcore.Batches(labelled, (26, 20), num_batches=60), verbose=0)
    soft = kdcore.SoftTargets.write(teacher, unlabelled, tmp_path / "soft")
    batches = kdcore.Batches(unlabelled, (26, 20), soft_targets=soft, num_batches=150)
    distiller = kdcore.Distiller(
        network(filters=4, seed=1), alpha=1.0, soft_loss=kdcore.regional_bernoulli_kd_loss
    )
    distiller.compile(keras.optimizers.Adam(3e-2))
    student = kdcore.fit(distiller, batches, epochs=1, folder=tmp_path / "student", verbose=0)
    scores = kdcore.evaluate(student, [regional(9)])["case_009"]
    assert scores["whole"]["dice"] > 0.5 and scores["core"]["dice"] > 0.5
    p = kdcore.predict_probabilities(student, regional(9))
    assert ((p > 0.5).sum(axis=-1) == 2).any()  # a voxel of both, which a softmax cannot say


def test_losses_of_a_step_are_those_of_the_functions():
    student, teachers = network(), [network(seed=1), network(seed=2)]
    loss = kdcore.bernoulli_kd_loss
    distiller = kdcore.Distiller(student, teachers, temperature=2.0, alpha=0.25, soft_loss=loss)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    x, y = kdcore.Batches([regional(0)], (26, 20), batch_size=8, shuffle=False)[0]
    y[0, :4, :, 1] = -1
    logits = student(x, training=True)
    p = np.mean([keras.ops.convert_to_numpy(keras.ops.sigmoid(t(x))) for t in teachers], axis=0)
    hard = float(dice_binary_cross_entropy(y, logits))
    soft = float(loss(np.log(p) - np.log1p(-p), logits, 2.0))
    found = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert found["hard_loss"][0] == pytest.approx(hard, rel=1e-3)
    assert found["soft_loss"][0] == pytest.approx(soft, rel=1e-3)
    assert found["loss"][0] == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-3)


def test_keras_own_loss_leaves_out_voxels_without_a_label():
    distiller = kdcore.Distiller(network(), alpha=0.0, soft_loss=kdcore.bernoulli_kd_loss)
    distiller.compile("sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    x, y = kdcore.Batches([regional(0)], (26, 20), batch_size=8, shuffle=False)[0]
    logits = keras.ops.convert_to_numpy(distiller.student(x))
    y[:, :13] = -1
    z, inside = logits[:, 13:], y[:, 13:]
    expected = np.mean(np.log1p(np.exp(z)) - inside * z)
    found = distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert found["hard_loss"] == pytest.approx(expected, rel=1e-3)


REFUSED = {
    "batches of regions and a softmax": (
        lambda: kdcore.Batches([regional(0)], (26, 20)),
        kdcore.regional_kd_loss,
        r"regions \('whole', 'core'\).*regional_bernoulli_kd_loss",
    ),
    "batches of labels and sigmoids": (
        lambda: kdcore.Batches([make_case(0)], (26, 20)),
        kdcore.bernoulli_kd_loss,
        r"each voxel of the cases has one label.*to_regions",
    ),
}


@pytest.mark.parametrize(("batches", "loss", "match"), REFUSED.values(), ids=REFUSED)
def test_a_distiller_refuses_the_other_kind(batches, loss, match):
    distiller = kdcore.Distiller(network(), network(seed=1), soft_loss=loss)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=match):
        distiller.fit(batches(), verbose=0)


X, ZEROS = np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4, 2), np.float32)
LOGITS = np.random.default_rng(0).normal(size=ZEROS.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("loss", "y", "match"),
    [
        (kdcore.regional_kd_loss, ZEROS + 1, "some voxels have several classes or none"),
        (kdcore.regional_kd_loss, ZEROS, "some voxels have several classes or none"),
        (kdcore.bernoulli_kd_loss, ZEROS[..., 0], "has a channel for each"),
        (kdcore.bernoulli_kd_loss, ZEROS + 2, "holds 1 inside a region"),
        (
            kdcore.bernoulli_kd_loss,
            {"mask": ZEROS, "soft_targets": 1 / (1 + np.exp(-LOGITS))},
            r"as probabilities do. Pass np.log\(p\) - np.log1p",
        ),
        (
            kdcore.bernoulli_kd_loss,
            {"mask": ZEROS, "soft_targets": -np.log1p(np.exp(LOGITS))},
            "Log-probabilities are never above 0",
        ),
    ],
)
def test_arrays_of_the_other_kind_are_refused_before_the_first_step(loss, y, match):
    student = kdcore.unet((4, 4, 1), 2, filters=2, depth=1)
    distiller = kdcore.Distiller(student, network(), soft_loss=loss)
    distiller.compile("sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=match):
        distiller.fit(X, y, verbose=0)


def test_other_doors_refuse_in_words(tmp_path):
    case = regional(0)
    _, y = kdcore.Batches([case], (26, 20))[0]
    with pytest.raises(ValueError, match="is for DiceBinaryCrossEntropy"):
        kdcore.DiceCrossEntropy()(y, np.zeros((*y.shape[:-1], 3), np.float32))
    with pytest.raises(ValueError, match=r"classes that exclude each other.*agreement"):
        kdcore.check_teaching(network(), network(), [case])
    with pytest.raises(ValueError, match="ForegroundDice takes one label a voxel"):
        kdcore.ForegroundDice(2)(y, np.zeros(y.shape, np.float32))
    with pytest.raises(ValueError, match=r"sum to .* over classes; expected 1.*to_regions"):
        kdcore.SoftTargets.write(said((0.9, 0.5)), [make_case(0)], tmp_path)


def test_a_network_with_a_sigmoid_a_channel_says_what_it_means():
    image = keras.Input((None, None, 1))
    head = keras.layers.Conv2D(2, 1, activation="sigmoid", bias_initializer="ones")
    model = keras.Model(image, head(image))
    with pytest.raises(ValueError, match="ends in sigmoid"):
        kdcore.predict_mask(model, regional(0))
    with pytest.raises(ValueError, match=r"sigmoid of 2 channels.*regions=True"):
        kdcore.to_logits(model)
    p = kdcore.predict_probabilities(kdcore.to_logits(model, regions=True), regional(0))
    expected = model.predict_on_batch(kdcore.normalize(regional(0).image))
    np.testing.assert_allclose(p, expected, atol=1e-5)


def test_a_distiller_of_regions_is_saved_and_loaded(tmp_path):
    distiller = kdcore.Distiller(
        network(), network(seed=1), soft_loss=kdcore.regional_bernoulli_kd_loss
    )
    distiller.compile("sgd")
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert again.soft_loss is distiller.soft_loss
    assert isinstance(again.loss, kdcore.DiceBinaryCrossEntropy)

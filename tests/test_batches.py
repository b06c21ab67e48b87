"""Image, mask and soft target stay together, whatever happens to them."""

import dataclasses
import pickle
import re

import keras
import numpy as np
import pytest
from conftest import make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import kdcore
from kdcore.augmentation import _gaussian, _move
from kdcore.batches import Batches
from kdcore.inference import pad_to
from kdcore.losses import IGNORE

SHAPE = (32, 24)


def self_describing(index, shape=(6, 26, 20), labelled=True):
    """A case whose image is its mask, so that any misalignment shows."""
    case = make_case(index, shape)
    return kdcore.Case(
        case.case_id, case.mask[..., None], case.mask if labelled else None, (1, 1, 1)
    )


@pytest.fixture
def soft_targets(tmp_path):
    def write(cases):
        def teacher(case):  # the image holds the label
            return np.eye(3)[case.image[..., 0].astype(int)] * 0.94 + 0.02

        teacher.digest = "v1"
        return kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft", normalization=None)

    return write


@pytest.mark.parametrize("shape", [(32, 24), (20, 16), (8, 32, 24), (4, 16, 16)])
@pytest.mark.parametrize("moved", [False, True])
def test_image_mask_and_soft_target_move_together(soft_targets, shape, moved):
    cases = [self_describing(i) for i in range(3)]
    augmentation = None
    if moved:
        augmentation = kdcore.Augmentation(
            flip_axes=(0, 1), gamma=0, noise=0, geometric_share=1.0, elastic=2.0
        )
    batches = Batches(
        cases,
        shape,
        4,
        soft_targets=soft_targets(cases),
        normalization=None,
        augmentation=augmentation,
        num_batches=5,
    )
    for index in range(5):
        x, y = batches[index]
        label = y["soft_targets"].argmax(-1)
        sure = np.abs(x[..., 0] - x[..., 0].round()) < 0.01  # away from blended borders
        agree = (x[..., 0].round() == y["mask"]) & (label == y["mask"])
        assert agree[sure].mean() > (0.995 if moved else 0.9999)
        assert sure.mean() > 0.6


def test_shapes_and_dtypes():
    x, y = Batches([make_case(0)], SHAPE, 4)[0]
    assert x.shape == (4, *SHAPE, 1) and x.dtype == np.float32
    assert y.shape == (4, *SHAPE) and y.dtype == np.int32


def test_without_shuffling_every_slice_comes_once():
    cases = [self_describing(i) for i in range(2)]
    batches = Batches(cases, (26, 20), 5, normalization=None, shuffle=False)
    x = np.concatenate([batches[i][0] for i in range(len(batches))])
    np.testing.assert_array_equal(x, np.concatenate([c.image for c in cases]))


def test_one_pass_sees_every_slice():
    cases = [self_describing(i) for i in range(2)]
    for i, case in enumerate(cases):
        object.__setattr__(case, "image", np.zeros_like(case.image) + 100 * i)
        case.image[:] += np.arange(6)[:, None, None, None]
    batches = Batches(cases, (26, 20), 4, normalization=None)
    for _ in range(2):
        seen = np.concatenate([batches[i][0][:, 0, 0, 0] for i in range(len(batches))])
        assert sorted(seen) == [*range(6), *range(100, 106)]
        batches.on_epoch_end()


def test_cases_on_disk_are_not_read_into_memory(tmp_path):
    kept, on_disk = make_case(0), []
    for name in ("image", "mask"):
        np.save(tmp_path / f"{name}.npy", getattr(kept, name))
        on_disk.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    case = kdcore.Case(kept.case_id, *on_disk, kept.spacing_mm)
    assert isinstance(case.image, np.memmap) and isinstance(case.mask, np.memmap)
    batches = Batches([case], SHAPE, 4)
    assert batches._sources[0].image.base.base is case.image
    for received, expected in zip(batches[1], Batches([kept], SHAPE, 4)[1], strict=True):
        np.testing.assert_array_equal(received, expected)


def test_a_batch_holds_what_normalize_gives():
    case = make_case(0, (6, 26, 20))
    batches = Batches([case], (26, 20), 6, shuffle=False)
    np.testing.assert_array_equal(batches[0][0], kdcore.normalize(case.image))


def test_depends_on_seed_epoch_and_index_alone():
    def make(seed=0, epoch=0):
        batches = Batches(
            [make_case(0)],
            SHAPE,
            4,
            augmentation=kdcore.Augmentation(),
            seed=seed,
            num_batches=9,
        )
        batches.epoch = epoch
        return batches

    used = make()
    for index in (5, 3, 1):
        used[index]
    used.on_epoch_end()
    np.testing.assert_array_equal(used[2][0], make(epoch=1)[2][0])
    assert not np.array_equal(used[2][0], make(epoch=0)[2][0])
    assert not np.array_equal(make()[2][0], make(seed=1)[2][0])
    assert not np.array_equal(make()[2][0], make()[3][0])


def test_unlabelled_cases_have_mask_minus_one():
    cases = [make_case(0), make_case(1, labelled=False)]
    batches = Batches(cases, SHAPE, 8, labelled_share=0.25, num_batches=3)
    for index in range(3):
        _, y = batches[index]
        unlabelled = (y == IGNORE).all(axis=(1, 2))
        assert unlabelled.sum() == 6 and not (y[~unlabelled] == IGNORE).any()


def test_augmentation_keeps_unlabelled_unlabelled(rng):
    mask = np.full((3, 16, 16), IGNORE, np.int16)
    image = rng.random((3, 16, 16, 1)).astype(np.float32)
    kdcore.Augmentation(geometric_share=1.0)(rng, image, mask)
    assert (mask == IGNORE).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_augmentation_makes_no_new_labels(seed, flat):
    rng = np.random.default_rng(seed)
    shape = (3, 12, 16) if flat else (2, 8, 12, 10)
    mask = rng.choice([0, 2, 5], shape).astype(np.int16)
    image = rng.random((*shape, 2)).astype(np.float32)
    soft = np.log(rng.dirichlet([1, 1, 1], shape)).astype(np.float32)
    kdcore.Augmentation(flip_axes=(0,))(rng, image, mask, soft)
    assert set(np.unique(mask)) <= {0, 2, 5}
    assert np.isfinite(image).all() and np.isfinite(soft).all()


def test_no_augmentation_is_the_identity(rng):
    nothing = kdcore.Augmentation(
        rotate_deg=0, scale=0, shift=0, elastic=0, gamma=0, noise=0, geometric_share=1.0
    )
    image = rng.random((2, 8, 8, 1)).astype(np.float32)
    before = image.copy()
    nothing(rng, image, np.zeros((2, 8, 8), np.int16))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(12, 10), (7, 12, 10), (1, 9), (1, 1, 1)])
def test_interpolation_agrees_with_scipy(rng, shape):
    image = rng.random((*shape, 3)).astype(np.float32)
    mask = rng.integers(0, 5, shape)
    places = rng.uniform(-4, 14, (len(shape), *shape)).astype(np.float32)
    linear = [
        ndimage.map_coordinates(image[..., k], places, order=1, mode="nearest") for k in range(3)
    ]
    nearest = ndimage.map_coordinates(mask, places, order=0, mode="nearest")
    _move(places, mask, image)
    np.testing.assert_allclose(image, np.stack(linear, -1), atol=1e-6)
    np.testing.assert_array_equal(mask, nearest)


def test_samples_of_a_batch_move_differently(rng):
    image = np.tile(rng.random((1, 16, 16, 1)).astype(np.float32), (4, 1, 1, 1))
    mask = np.zeros((4, 16, 16), np.int16)
    kdcore.Augmentation(geometric_share=1.0)(rng, image, mask)
    assert len({sample.tobytes() for sample in image}) == 4


def test_noise_is_gaussian_and_as_large_as_it_says(rng):
    noise = _gaussian(rng, (400, 500))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs((np.abs(noise) > 1.96).mean() - 0.05) < 0.005


def test_elastic_displacement_is_as_large_as_it_says(rng):
    field = kdcore.Augmentation(elastic=2.0)._displacement(rng, 99, (64, 48))
    assert field.shape == (99, 2, 64, 48)
    assert 1.0 < field.std() < 2.5 and np.abs(np.diff(field, axis=2)).max() < 2


def test_rotation_turns_by_the_angle_it_says():
    # A bright point to the right of the centre; at 90° it comes from above or below.
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 4, 7] = 1
    turn = kdcore.Augmentation(
        rotate_deg=90, scale=0, shift=0, elastic=0, gamma=0, noise=0, geometric_share=1.0
    )

    class Largest:
        def random(self, size):
            return np.zeros(size)

        def uniform(self, low, high, size=None):
            return high if size is None else np.full(size, high)

    turn(Largest(), image, np.zeros((1, 9, 9), np.int16))
    assert np.unravel_index(image[0, ..., 0].argmax(), (9, 9)) in {(1, 4), (7, 4)}


def test_padding_repeats_the_border():
    padded = pad_to(np.array([[1, 2], [3, 4]]), (4, 3))
    np.testing.assert_array_equal(padded, [[1, 2, 2], [1, 2, 2], [3, 4, 4], [3, 4, 4]])


def test_in_order_takes_unlabelled_cases_too_and_starts_again():
    cases = [make_case(0), make_case(1, labelled=False)]
    batches = Batches(cases, SHAPE, 5, shuffle=False, labelled_share=0.5, num_batches=6)
    unlabelled = [(batches[i][1] == IGNORE).all(axis=(1, 2)).sum() for i in range(6)]
    assert unlabelled == [0, 2, 5, 1, 0, 2]  # 8 + 8 slices by five, then from the start


def test_soft_targets_of_another_image_are_refused(soft_targets):
    opened = soft_targets([self_describing(0)])
    changed = kdcore.Case("case_000", self_describing(1).image, None, (1, 1, 1))
    with pytest.raises(ValueError, match="not the one that was labelled"):
        Batches([changed], SHAPE, soft_targets=opened, normalization=None)
    with pytest.raises(KeyError, match="no soft target for case_002"):
        Batches([self_describing(2)], SHAPE, soft_targets=opened, normalization=None)
    with pytest.raises(ValueError, match="normalization was None, is percentile"):
        Batches([self_describing(0)], SHAPE, soft_targets=opened)


# --- a share that holds foreground -----------------------------------------------------------


def spots(index, shape=(8, 20, 20), labelled=True, labels=((2, 5, 7, 1), (6, 15, 3, 2))):
    """A case whose image numbers its voxels, empty but for single voxels (d, h, w, label)."""
    mask = np.zeros(shape, np.uint8)
    for *voxel, label in labels:
        mask[tuple(voxel)] = label
    image = np.arange(mask.size, dtype=np.float32).reshape(*shape, 1) + index * mask.size
    return kdcore.Case(f"spots_{index}", image, mask if labelled else None, (1, 1, 1))


def test_without_a_share_batches_are_as_ever():
    """Slices drawn from one shuffled pass a pool after another, written down again."""
    cases = [spots(0), spots(1, labelled=False)]
    for share in (None, 0, 0.0):
        batches = Batches(
            cases, (20, 20), 4, normalization=None, labelled_share=0.5, foreground_share=share,
            num_batches=8, seed=5,
        )  # fmt: skip
        seen = np.stack([batches[i][0][:, 0, 0, 0] // 400 for i in range(8)])
        for pool in (0, 1):
            passes = [np.random.default_rng([5, pool, n]).permutation(8) for n in (0, 1)]
            expected = np.concatenate(passes) + 8 * pool
            np.testing.assert_array_equal(seen[:, 2 * pool : 2 * pool + 2].ravel(), expected)


@pytest.mark.parametrize("shape", [(20, 20), (6, 6), (3, 6, 6), (8, 20, 20), (12, 24, 24)])
@pytest.mark.parametrize("share", [1.0, 0.5, 1 / 3])
def test_the_share_holds_foreground(shape, share):
    cases = [spots(0), spots(1, labels=()), spots(2, labels=((0, 0, 0, 1), (7, 19, 19, 3)))]
    batches = Batches(cases, shape, 6, foreground_share=share, num_batches=20, normalization=None)
    masks = np.concatenate([batches[i][1] for i in range(20)]).reshape(120, -1)
    holds = (masks > 0).any(axis=1)
    assert holds.sum() >= share * 120
    if shape == (6, 6):  # a voxel of a crop of 36 out of 3200 is hardly ever met by chance
        assert holds.sum() <= share * 120 + 12
    if share == 1.0:  # each label as often as the other, wherever it is
        found = [(masks == label).any(axis=1).sum() for label in (1, 2, 3)]
        assert min(found) > 15


def test_the_part_that_is_taken_lies_anywhere_around_its_voxel():
    batches = Batches(
        [spots(0, labels=((4, 9, 1, 1),))], (4, 6, 6), 50, foreground_share=1.0,
        num_batches=8, normalization=None,
    )  # fmt: skip
    for index in range(8):
        x, mask = batches[index]
        place = np.argwhere(mask == 1)
        assert len(place) == 50
        corner = x[:, 0, 0, 0, 0].astype(int)
        assert set(corner // 400) == {1, 2, 3, 4} and set(corner // 20 % 20) == set(range(4, 10))
        assert set(corner % 20) == {0, 1}  # the border is not crossed


def test_a_rare_label_is_sought_as_often_as_a_frequent_one():
    case = spots(0, labels=[(d, h, w, 1) for d in range(8) for h in range(9) for w in range(20)])
    case.mask.flags.writeable = True
    case.mask[3, 18, 18] = 2
    for shape, least in (((4, 4), 3), ((2, 4, 4), 40)):
        batches = Batches([case], shape, 100, foreground_share=1.0, normalization=None)
        assert (batches[0][1] == 2).reshape(100, -1).any(axis=1).sum() >= least


@pytest.mark.parametrize("shape", [(8, 8), (4, 8, 8)])
def test_where_there_is_no_mask_the_teachers_map_says_it(tmp_path, shape):
    """The teacher sees label 2 where the case has none, and nothing where it has one."""
    cases = [spots(0), spots(1, labelled=False, labels=()), spots(2, labelled=False, labels=())]

    def teacher(case):
        answer = np.full((*case.image.shape[:3], 3), (0.9, 0.05, 0.05))
        if case.case_id == "spots_1":
            answer[5, 11, 2] = 0.2, 0.1, 0.7
        return answer

    teacher.digest = "v1"
    soft = kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft", normalization=None)
    batches = Batches(
        cases, shape, 8, soft_targets=soft, labelled_share=0.25, foreground_share=0.5,
        num_batches=10, normalization=None,
    )  # fmt: skip
    by_mask, by_teacher = 0, 0
    for index in range(10):
        _, y = batches[index]
        unlabelled = (y["mask"] == IGNORE).reshape(8, -1).all(axis=1)
        assert unlabelled.tolist() == [False] * 2 + [True] * 6
        by_mask += (y["mask"][:2] > 0).reshape(2, -1).any(axis=1).sum()
        by_teacher += (y["soft_targets"][2:].argmax(-1) == 2).reshape(6, -1).any(axis=1).sum()
    assert 10 <= by_mask <= 16 and 30 <= by_teacher <= 50  # of 20 and 60


def test_with_a_share_a_batch_still_depends_on_seed_epoch_and_index_alone():
    def make(epoch=0):
        batches = Batches(
            [make_case(0)],
            (12, 10), 4, augmentation=kdcore.Augmentation(), foreground_share=0.4,
            num_batches=9, normalization=None,
        )  # fmt: skip
        batches.epoch = epoch
        return batches

    used = make()
    for index in (5, 3, 1):
        used[index]
    used.on_epoch_end()
    np.testing.assert_array_equal(used[2][0], make(epoch=1)[2][0])


def test_in_order_no_share_is_sought():
    batches = [
        Batches([spots(0)], (20, 20), 4, shuffle=False, foreground_share=share)[1][0]
        for share in (None, 1.0)
    ]
    np.testing.assert_array_equal(*batches)


def test_foreground_needs_to_be_known_and_to_be_there():
    with pytest.raises(ValueError, match="spots_1 has neither a mask nor a soft target"):
        Batches([spots(0), spots(1, labelled=False)], SHAPE, foreground_share=0.5)
    with pytest.warns(UserWarning, match="foreground_share=0.5 does nothing for 8 of the samples"):
        batches = Batches([spots(0, labels=())], SHAPE, 4, foreground_share=0.5)
    x = Batches([spots(0, labels=())], SHAPE, 4)[1][0]
    np.testing.assert_array_equal(batches[1][0], x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": []}, "at least one case"),
        ({"shape": (4,)}, "shape must be"),
        ({"batch_size": 0}, "batch_size"),
        ({"labelled_share": 2}, "labelled_share"),
        ({"foreground_share": -0.1}, "foreground_share must lie in"),
        ({"num_batches": 0}, "num_batches"),
        (
            {
                "cases": [make_case(0), make_case(1, labelled=False)],
                "labelled_share": 0.9,
                "batch_size": 4,
            },
            "leaves no sample to the unlabelled cases",
        ),
        (
            {"cases": [make_case(0), make_case(1, labelled=False)], "labelled_share": 0.01},
            "no sample at all",
        ),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batches(**{"cases": [make_case(0)], "shape": SHAPE, **arguments})


def with_mask(mask, index=0):
    case = make_case(index, (3, 16, 16))
    return dataclasses.replace(case, mask=np.broadcast_to(mask, case.mask.shape))


def test_labels_are_told_before_the_first_step():
    assert kdcore.Batches([with_mask(np.eye(16) - 1)], (16, 16), 2).labels == (0,)  # and -1
    assert kdcore.Batches([with_mask(np.eye(16)), with_mask(2, 1)], (16, 16), 2).labels == (0, 1, 2)
    with pytest.raises(ValueError, match=r"case_001: .* label 255 .*\[0, 255\].*relabel"):
        kdcore.Batches([with_mask(0), with_mask(255 * np.eye(16), 1)], (16, 16), 2)[0]
    with pytest.warns(UserWarning, match=r"\[0, 2, 41\].*42 classes.*case_000 holds 41.*relabel"):
        kdcore.Batches([with_mask(np.where(np.arange(16) == 3, 41, 2 * np.eye(16)))], (16, 16), 2)


@pytest.mark.parametrize(
    ("size", "spacing", "told"),
    [
        ((3, 16, 16), (5.0, 0.8, 0.8), None),
        ((3, 16, 12), (1.0, 1.0, 1.0), None),
        ((16, 16, 3), (1.0, 1.0, 1.0), "81% of a sample"),  # strips of 16 by 3
        ((16, 16, 16), (0.8, 0.8, 5.0), "0.8, 0.8, 5.0. mm"),
        ((16, 16, 16), (float("nan"),) * 3, None),
    ],
)
def test_slices_along_the_wrong_axis_are_told(size, spacing, told, recwarn):
    case = dataclasses.replace(make_case(0, size), spacing_mm=spacing)
    kdcore.Batches([case], (16, 16), 2)
    said = [str(warning.message) for warning in recwarn.list]
    assert len(said) == (told is not None)
    assert told is None or (re.search(told, said[0]) and "kdcore.reorient" in said[0])


def test_foreground_is_not_sought_where_nobody_labelled(recwarn):
    mask = np.full((3, 16, 16), -1)
    mask[1, :4, :4] = 1
    batches = kdcore.Batches([with_mask(mask)], (16, 16), 8, foreground_share=1.0, num_batches=1)
    assert (batches[0][1] == 1).any(axis=(1, 2)).all()


def test_negative_augmentation_is_refused():
    with pytest.raises(ValueError, match="noise must be"):
        kdcore.Augmentation(noise=-1)


def test_batches_can_be_sent_to_another_process(cases, tmp_path):
    """As multiprocessing does on macOS and Windows; arrays on disk come along as well."""
    teacher = kdcore.unet((32, 24, 1), 3, 2, 1)
    np.save(tmp_path / "image.npy", cases[0].image)
    image = np.load(tmp_path / "image.npy", mmap_mode="r")
    cases = [dataclasses.replace(cases[0], image=image), *cases[1:3]]
    soft_targets = kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft")
    batches = kdcore.Batches(
        cases,
        (32, 24),
        4,
        soft_targets=soft_targets,
        augmentation=kdcore.Augmentation(),
        foreground_share=0.5,
        workers=2,
    )
    batches.epoch = 3
    copy = pickle.loads(pickle.dumps(batches))
    assert (copy.epoch, copy.workers, copy.use_multiprocessing) == (3, 2, False)
    for index in (0, 4):
        (x, y), (also_x, also_y) = batches[index], copy[index]
        np.testing.assert_array_equal(also_x, x)
        np.testing.assert_array_equal(also_y["soft_targets"], y["soft_targets"])
    assert copy.describe() == batches.describe()


@pytest.mark.job
def test_workers_make_the_same_epochs(cases):
    losses = []
    for workers in (1, 2):
        keras.utils.set_random_seed(0)
        network = kdcore.unet((16, 16, 1), 3, 2, 1)
        network.compile(keras.optimizers.SGD(0.0), kdcore.DiceCrossEntropy())
        batches = kdcore.Batches(cases[:2], (16, 16), 4, num_batches=3, workers=workers)
        losses.append(network.fit(batches, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert losses[0] == pytest.approx(losses[1]) and losses[0][0] != losses[0][1]


# --- weights of classes --------------------------------------------------------------------


def test_a_voxel_weighs_as_its_class(soft_targets):
    weights = {0: 0.25, 2: 5}
    labelled, unlabelled = self_describing(0), self_describing(1, labelled=False)
    for batches in (
        Batches([labelled], SHAPE, 4, normalization=None, class_weight=weights),
        Batches(  # the teacher's classes where nobody labelled; its maps are the image, too
            [labelled, unlabelled],
            SHAPE,
            4,
            normalization=None,
            soft_targets=soft_targets([labelled, unlabelled]),
            class_weight=weights,
        ),
    ):
        for x, _, found in batches:
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.choose(x[..., 0].astype(int), [0.25, 1, 5]))


def test_a_voxel_nobody_labelled_weighs_one():
    _, mask, found = Batches([self_describing(0, labelled=False)], SHAPE, 2, class_weight={0: 3})[0]
    assert (mask == IGNORE).all() and (found == 1).all()


@pytest.mark.job
def test_classes_weigh_in_training_as_sample_weights_do():
    cases, weights = [self_describing(i) for i in range(2)], {1: 10.0}
    batches = Batches(cases, SHAPE, 12, shuffle=False, class_weight=weights)
    x, mask, found = batches[0]
    losses = []
    for data in ({"x": batches}, {"x": x, "y": mask, "sample_weight": found, "batch_size": 12}):
        keras.utils.set_random_seed(0)
        student, teacher = (kdcore.unet((*SHAPE, 1), 3, filters=2) for _ in range(2))
        distiller = kdcore.Distiller(student, teacher)
        distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        losses.append(distiller.fit(**data, epochs=1, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    plain = distiller.fit(x, mask, batch_size=12, verbose=0).history["loss"]
    assert abs(plain[0] - losses[0][0]) > 1e-3


@pytest.mark.parametrize("weights", [{-1: 1.0}, {0: -1.0}, {0: np.nan}, {0.5: 1.0}, {0: 0.0}, {}])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="class_weight must be"):
        Batches([self_describing(0)], SHAPE, class_weight=weights)


def test_regions_have_no_class_to_weigh():
    case = kdcore.data.to_regions(self_describing(0), {"a": (1, 2), "b": (2,)})
    with pytest.raises(ValueError, match="class_weight weighs a voxel by its one class"):
        Batches([case], SHAPE, class_weight={1: 2.0})


def test_the_order_of_weights_is_no_setting():
    told = [
        Batches([self_describing(0)], SHAPE, class_weight=weights).describe()["class_weight"]
        for weights in ({0: 1, 2: 5}, {np.int64(2): np.float32(5), 0: 1.0})
    ]
    assert told[0] == told[1] == [[0, 1.0], [2, 5.0]]

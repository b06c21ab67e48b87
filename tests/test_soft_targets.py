import errno
import json
import os
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore
from kdcore._files import file_digest, read_json, write_json
from kdcore._provenance import teacher_digest
from kdcore.data.splits import LeakageError
from kdcore.soft_targets import SoftTargetsError


def network(seed=0, classes=3, filters=2):
    keras.utils.set_random_seed(seed)
    return kdcore.unet((None, None, 1), classes, filters=filters, depth=1)


def flat(case):
    """A callable teacher that knows nothing."""
    return np.full((*case.image.shape[:3], 3), 1 / 3, np.float32)


@pytest.fixture
def two(cases):
    return cases[:2]


@pytest.mark.parametrize("model_shape", [(None, None, 1), (8, None, None, 1)])
def test_log_probabilities_of_the_teacher(tmp_path, two, model_shape):
    keras.utils.set_random_seed(0)
    model = kdcore.unet(model_shape, 3, filters=2, depth=1)
    soft = kdcore.SoftTargets.write(model, two, tmp_path)
    array = soft["case_000"]
    assert isinstance(array, np.memmap) and array.dtype == np.float16
    assert array.shape == (*two[0].image.shape[:3], 3)
    expected = kdcore.predict_probabilities(model, two[0])
    np.testing.assert_allclose(np.exp(array.astype(np.float32)), expected, atol=2e-3)
    assert sorted(soft) == ["case_000", "case_001"] and soft.num_classes == 3


def test_several_teachers_are_their_mean_probability(tmp_path, two):
    models = [network(0), network(1)]
    soft = kdcore.SoftTargets.write(models, two, tmp_path)
    expected = np.mean([kdcore.predict_probabilities(m, two[0]) for m in models], axis=0)
    np.testing.assert_allclose(np.exp(soft["case_000"].astype(np.float32)), expected, atol=2e-3)


def test_any_callable_may_teach(tmp_path, two):
    soft = kdcore.SoftTargets.write(flat, two, tmp_path)
    np.testing.assert_allclose(soft["case_001"], np.log(1 / 3), atol=1e-3)


def test_bernoulli_teachers_give_two_channels(tmp_path, two):
    for number, teacher in enumerate((network(classes=1), lambda case: flat(case)[..., :1])):
        soft = kdcore.SoftTargets.write(teacher, two, tmp_path / str(number))
        total = np.exp(soft["case_000"].astype(np.float32)).sum(-1)
        assert soft.num_classes == 2
        np.testing.assert_allclose(total, 1, atol=2e-3)


def test_goes_on_where_it_stopped(tmp_path, cases):
    seen = []

    def teacher(case):
        if len(seen) == 3 and case.case_id == cases[3].case_id:
            seen.append("stop")
            raise KeyboardInterrupt
        seen.append(case.case_id)
        return flat(case)

    with pytest.raises(KeyboardInterrupt):
        kdcore.SoftTargets.write(teacher, cases, tmp_path)
    assert len(kdcore.SoftTargets.open(tmp_path)) == 3
    soft = kdcore.SoftTargets.write(teacher, cases, tmp_path)
    assert len(soft) == 6 and len(seen) == 7  # no case was labelled twice


def test_a_full_disk_leaves_no_half_case(tmp_path, two, monkeypatch):
    kdcore.SoftTargets.write(flat, two[:1], tmp_path)

    def full(path, array, **kwargs):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        kdcore.SoftTargets.write(flat, two, tmp_path)
    monkeypatch.undo()
    assert list(kdcore.SoftTargets.open(tmp_path)) == ["case_000"]
    assert not list(tmp_path.glob(".part-*"))
    assert len(kdcore.SoftTargets.write(flat, two, tmp_path)) == 2


# --- anything changed is refused --------------------------------------------------------


def test_another_teacher_is_refused(tmp_path, two):
    kdcore.SoftTargets.write(network(0), two, tmp_path)
    kdcore.SoftTargets.open(tmp_path, teacher=network(0))  # the same weights, built again
    with pytest.raises(SoftTargetsError, match="made with another teacher"):
        kdcore.SoftTargets.open(tmp_path, teacher=network(1))
    with pytest.raises(SoftTargetsError, match="made with another teacher"):
        kdcore.SoftTargets.write(network(1), two, tmp_path)


def test_another_normalization_is_refused(tmp_path, two):
    model = network()
    kdcore.SoftTargets.write(model, two, tmp_path)
    with pytest.raises(SoftTargetsError, match="another normalization"):
        kdcore.SoftTargets.write(model, two, tmp_path, normalization="zscore")
    with pytest.raises(SoftTargetsError, match="normalization was percentile, is zscore"):
        kdcore.SoftTargets.open(tmp_path, cases=two, normalization="zscore")


def test_another_image_is_refused_and_labelled_again(tmp_path, two):
    kdcore.SoftTargets.write(flat, two, tmp_path)
    changed = kdcore.Case("case_000", two[0].image + 1, None, (1, 1, 1))
    with pytest.raises(SoftTargetsError, match="case_000 is not the one that was labelled"):
        kdcore.SoftTargets.open(tmp_path, cases=[changed])
    kdcore.SoftTargets.write(flat, [changed], tmp_path)
    kdcore.SoftTargets.open(tmp_path, cases=[changed])


def test_another_number_of_classes_is_refused(tmp_path, two):
    class Teacher:
        digest = "the same"
        classes = 3

        def __call__(self, case):
            return np.full((*case.image.shape[:3], self.classes), 1 / self.classes)

    teacher = Teacher()
    kdcore.SoftTargets.write(teacher, two[:1], tmp_path)
    teacher.classes = 4
    with pytest.raises(SoftTargetsError, match="num_classes was 3, is 4"):
        kdcore.SoftTargets.write(teacher, two, tmp_path)


def test_swapped_and_damaged_files_are_refused(tmp_path, two):
    kdcore.SoftTargets.write(network(), two, tmp_path)
    first, second = tmp_path / "case_000.npy", tmp_path / "case_001.npy"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(SoftTargetsError, match="case_000.npy is not the file"):
        kdcore.SoftTargets.open(tmp_path)["case_000"]
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SoftTargetsError, match="case_000.npy is not the file"):
        kdcore.SoftTargets.open(tmp_path)["case_000"]


def test_broken_manifest_and_missing_case(tmp_path, two):
    with pytest.raises(FileNotFoundError, match="holds no soft targets"):
        kdcore.SoftTargets.open(tmp_path)
    kdcore.SoftTargets.write(flat, two, tmp_path)
    with pytest.raises(KeyError, match="no soft target for case_009"):
        kdcore.SoftTargets.open(tmp_path)["case_009"]
    (tmp_path / "manifest.json").write_text('{"format": 1, "te')
    with pytest.raises(ValueError, match="manifest.json is not valid JSON"):
        kdcore.SoftTargets.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(SoftTargetsError, match="manifest.json is not as it was written"):
        kdcore.SoftTargets.open(tmp_path)
    write_json(tmp_path / "manifest.json", {"format": 99}, sealed=True)
    with pytest.raises(SoftTargetsError, match="unknown format"):
        kdcore.SoftTargets.open(tmp_path)


def test_labelling_held_out_cases_is_refused(tmp_path, cases):
    split = kdcore.split_cases(cases, 2, 1, 1)
    with pytest.raises(LeakageError, match="SoftTargets.write may use labelled or unlabelled"):
        kdcore.SoftTargets.write(flat, cases, tmp_path, split=split)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda p: p[:-1], "the teacher gave shape"),
        (lambda p: p * 40 - 20, "values run from"),
        (lambda p: p * 0.5, "sum to"),
        (lambda p: p * np.nan, "values run from"),
    ],
)
def test_what_is_no_probability_map_is_refused(tmp_path, two, output, message):
    with pytest.raises(ValueError, match=message):
        kdcore.SoftTargets.write(lambda case: output(flat(case)), two, tmp_path)


def test_a_lost_array_is_named_and_made_again(tmp_path, two):
    kdcore.SoftTargets.write(flat, two, tmp_path)
    (tmp_path / "case_000.npy").unlink()
    with pytest.raises(SoftTargetsError, match="case_000.npy is missing"):
        kdcore.SoftTargets.open(tmp_path)["case_000"]
    assert kdcore.SoftTargets.write(flat, two, tmp_path)["case_000"].size
    (tmp_path / "case_001.json").write_text("{}")
    with pytest.raises(SoftTargetsError, match="case_001.json is not as it was written"):
        kdcore.SoftTargets.open(tmp_path)["case_001"]


def test_teachers_of_other_classes_are_refused(tmp_path, two):
    with pytest.raises(ValueError, match=r"know the same classes. Received: \[2, 3\]"):
        kdcore.SoftTargets.write([network(classes=2), network()], two, tmp_path)
    wrong = lambda case: flat(case) * 2  # noqa: E731
    with pytest.raises(ValueError, match="sum to"):
        kdcore.SoftTargets.write([wrong, lambda case: flat(case) * 0], two, tmp_path)


def test_digest_of_a_callable_sees_what_it_uses():
    def teacher(factor, model=None):
        return lambda case: (flat(case) * factor, model)

    assert teacher_digest(teacher(1)) == teacher_digest(teacher(1))
    assert teacher_digest(teacher(1)) != teacher_digest(teacher(2))
    assert teacher_digest(teacher(np.ones(2))) != teacher_digest(teacher(np.zeros(2)))
    assert teacher_digest(teacher(1, network(0))) != teacher_digest(teacher(1, network(1)))
    assert teacher_digest(partial(flat, k=1)) != teacher_digest(partial(flat, k=2))
    assert teacher_digest(teacher([network(0)])) != teacher_digest(teacher([network(1)]))

    class Service:
        digest = "v1"

        def __call__(self, case):
            return flat(case)

    service = Service()
    before = teacher_digest(service)
    service.digest = "v2"
    assert teacher_digest(service) != before


def test_digest_is_the_same_in_every_process(tmp_path):
    (tmp_path / "teachers.py").write_text(
        "def teacher(case):\n"
        "    return [x for x in {'a', 'b', 'c'} if (lambda y: y in {'d', 'e'})(x)]\n"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import teachers; "
        "from kdcore.digests import teacher_digest as d; print(d(teachers.teacher))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    outputs = {
        subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) == 64


def test_teacher_digest_sees_activations():
    def model(activation):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, None, 1))
        return keras.Model(inputs, keras.layers.Conv2D(2, 1, activation=activation)(inputs))

    assert teacher_digest(model("relu")) != teacher_digest(model("tanh"))


def test_teacher_digest_sees_weights_and_not_names():
    a, b = network(0), network(0)
    assert teacher_digest(a) == teacher_digest(b) != teacher_digest(network(1))
    assert teacher_digest([a, b]) != teacher_digest(a)
    assert teacher_digest(flat) != teacher_digest(lambda case: case)
    with pytest.raises(ValueError, match="A teacher is"):
        teacher_digest("model.keras")


def test_nnunet_probability_maps(tmp_path, two, rng):
    source = tmp_path / "nnunet"
    source.mkdir()
    maps = {}
    for case in two:
        maps[case.case_id] = rng.dirichlet([1, 1, 1], case.image.shape[:3]).astype("float32")
        c_z_y_x = maps[case.case_id].transpose(3, 2, 1, 0)
        np.savez_compressed(source / f"{case.case_id}.npz", probabilities=c_z_y_x)
    teacher = kdcore.NNUNetProbabilities(source)
    soft = kdcore.SoftTargets.write(teacher, two, tmp_path / "soft")
    for case in two:
        received = np.exp(soft[case.case_id].astype(np.float32))
        np.testing.assert_allclose(received, maps[case.case_id], atol=2e-3)
    with pytest.raises(FileNotFoundError, match="case_005.npz does not exist"):
        teacher(make_case(5))
    (source / "case_005.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="case_005.npz is no probability map"):
        teacher(make_case(5))
    with pytest.raises(FileNotFoundError, match="holds no .npz"):
        kdcore.NNUNetProbabilities(tmp_path)


# --- what is not there, what is foreign ----------------------------------------------------


def test_leftovers_and_finder_files_are_no_cases(tmp_path, two):
    soft = kdcore.SoftTargets.write(flat, two, tmp_path)
    before = soft.digest()
    part = tmp_path / ".part-x"
    part.mkdir()
    for path in (part / "case_009.json", tmp_path / "._case_000.json"):
        path.write_text("half")
    assert list(soft) == ["case_000", "case_001"] and soft.digest() == before


@pytest.mark.parametrize(
    "change", [lambda a: a.astype(np.float64), lambda a: a[..., :2], lambda a: a[0]]
)
def test_foreign_arrays_are_refused_even_with_their_digest(tmp_path, two, change):
    soft = kdcore.SoftTargets.write(flat, two, tmp_path)
    np.save(tmp_path / "case_000.npy", change(np.array(soft["case_000"])))
    record = read_json(tmp_path / "case_000.json")
    record["array"] = file_digest(tmp_path / "case_000.npy")
    write_json(tmp_path / "case_000.json", record, sealed=True)
    with pytest.raises(SoftTargetsError, match="case_000.npy holds"):
        kdcore.SoftTargets.open(tmp_path)["case_000"]


def test_an_array_of_another_size_is_refused_by_batches(tmp_path, two):
    soft = kdcore.SoftTargets.write(flat, two, tmp_path)
    np.save(tmp_path / "case_000.npy", np.array(soft["case_000"])[1:])
    record = read_json(tmp_path / "case_000.json")
    record["array"] = file_digest(tmp_path / "case_000.npy")
    write_json(tmp_path / "case_000.json", record, sealed=True)
    with pytest.raises(SoftTargetsError, match="case_000.npy has shape"):
        kdcore.Batches(two, (16, 16), soft_targets=kdcore.SoftTargets.open(tmp_path))


def test_nnunet_arrays_of_no_numbers_are_refused(tmp_path, two):
    shape = (3, *two[0].image.shape[2::-1])
    np.savez(tmp_path / "case_000.npz", probabilities=np.ones(shape, np.complex64))
    with pytest.raises(ValueError, match="case_000.npz is no probability map.*complex64"):
        kdcore.NNUNetProbabilities(tmp_path)(two[0])


def test_nnunet_maps_of_another_size_are_not_even_read(tmp_path, two):
    np.savez_compressed(tmp_path / "case_000.npz", probabilities=np.zeros((3, 64, 64, 64), "f4"))
    with pytest.raises(ValueError, match=r"case_000.npz .* its shape is \(3, 64, 64, 64\)"):
        kdcore.NNUNetProbabilities(tmp_path)(two[0])

import errno
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore
from kdcore._files import digest, file_digest, read_json, write_json
from kdcore._provenance import _nameless, teacher_digest, unseen
from kdcore.data.splits import LeakageError
from kdcore.soft_targets import SoftTargetsError


def network(seed=0, classes=3, filters=2):
    keras.utils.set_random_seed(seed)
    return kdcore.unet((None, None, 1), classes, filters=filters, depth=1)


def flat(case):
    """A callable teacher that knows nothing."""
    return np.full((*case.image.shape[:3], 3), 1 / 3, np.float32)


flat.digest = "flat"


def known(teacher, digest="v1"):
    """A teacher that tells what it is."""
    teacher.digest = digest
    return teacher


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


def test_a_map_as_nibabel_gives_it_is_written_in_c_order(tmp_path, two):
    p = np.full((*two[0].image.shape[:3], 3), 1 / 3, np.float32)
    teacher = known(lambda case: np.asfortranarray(p))
    soft = kdcore.SoftTargets.write(teacher, two[:1], tmp_path)
    np.testing.assert_allclose(soft["case_000"], np.log(p), atol=1e-3)


def test_bernoulli_teachers_give_two_channels(tmp_path, two):
    for number, teacher in enumerate((network(classes=1), known(lambda c: flat(c)[..., :1]))):
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

    teacher.digest = "v1"
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


def test_a_teacher_tells_what_answers_each_case(tmp_path, two):
    """A folder of answers may grow, and one that changed is given anew."""

    class Answers:
        def __init__(self):
            self.told = {"case_000": 0.2}

        def case_digest(self, case_id):
            return self.told[case_id]

        def __call__(self, case):
            asked.append(case.case_id)
            return np.full((*case.image.shape[:3], 1), self.told[case.case_id])

    asked, teacher = [], Answers()
    kdcore.SoftTargets.write(teacher, two[:1], tmp_path)
    teacher.told["case_001"] = 0.4
    kdcore.SoftTargets.write(teacher, two, tmp_path)
    teacher.told["case_000"] = 0.6
    with pytest.raises(SoftTargetsError, match="the teacher's own file for case_000"):
        kdcore.SoftTargets.open(tmp_path, teacher=teacher)
    soft = kdcore.SoftTargets.write(teacher, two, tmp_path)
    assert asked == ["case_000", "case_001", "case_000"]
    np.testing.assert_allclose(np.exp(soft["case_000"][..., 1].astype("f4")), 0.6, atol=1e-3)
    kdcore.SoftTargets.open(tmp_path, teacher=teacher)


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


def test_an_iterator_is_read_as_its_cases_are_labelled(tmp_path, cases):
    def read():
        for before, case in enumerate(cases):
            assert len(list(tmp_path.glob("case_*.json"))) == before
            yield case

    soft = kdcore.SoftTargets.write(flat, read(), tmp_path)
    assert sorted(soft) == sorted(case.case_id for case in cases)


def test_of_an_iterator_the_cases_before_the_forbidden_one_stay(tmp_path, cases):
    split = kdcore.Split((cases[0].case_id,), (), (), (cases[1].case_id,))
    with pytest.raises(LeakageError, match="SoftTargets.write may use labelled or unlabelled"):
        kdcore.SoftTargets.write(flat, iter(cases[:2]), tmp_path, split=split)
    assert list(kdcore.SoftTargets.open(tmp_path)) == [cases[0].case_id]


def test_without_ray_it_is_told_how_to_get_it(tmp_path, two, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConnectionError, match=r"not installed.*pip install 'kdcore\[ray\]'"):
        kdcore.SoftTargets.write(flat, two, tmp_path, ray="local")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda p: p[:-1], "the teacher gave shape"),
        (lambda p: p * 40 - 20, "values run from"),
        (lambda p: p * 0.5, "sum to"),
        (lambda p: p * np.nan, "Say what is so where it is NaN"),
        (lambda p: np.round(p * 255), "look like 8-bit numbers: divide them by 255"),
        (lambda p: p * 100, "look like percent: divide them by 100"),
        (lambda p: p + np.array([-0.4, 0.4, 0]), "interpolation that overshoots: resample linear"),
        (lambda p: None, "the teacher gave None. Does it end in a `return`"),
        (lambda p: [[1.0], [1.0, 2.0]], "the teacher gave list, which is no array"),
    ],
)
def test_what_is_no_probability_map_is_refused(tmp_path, two, output, message):
    with pytest.raises(ValueError, match=message):
        kdcore.SoftTargets.write(known(lambda case: output(flat(case))), two, tmp_path)


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
    wrong = [known(lambda case: flat(case) * 2), known(lambda case: flat(case) * 0)]
    with pytest.raises(ValueError, match="sum to"):
        kdcore.SoftTargets.write(wrong, two, tmp_path)


class TorchLike:
    """What is used of a PyTorch module, where PyTorch is not installed."""

    def __init__(self, bias, *layers):
        self.bias, self.layers = np.full(3, bias, np.float32), layers

    def state_dict(self):
        return {"head.bias": self.bias, "steps": np.int64(3)}

    def modules(self):
        return [self, *self.layers]

    def __call__(self, case):
        return flat(case)


class ReLU:
    pass


class Tanh:
    pass


CONTENT = [
    ("v1", "v2"),
    (1, 2),
    (np.ones(3), np.ones(4)),
    ({"a": np.ones(3), "b": [1, "x"]}, {"a": np.ones(3), "b": [1, "y"]}),
    (TorchLike(0.0), TorchLike(0.5)),
    (TorchLike(0.0, ReLU()), TorchLike(0.0, Tanh())),
    (lambda: {"w": np.zeros(2)}, lambda: {"w": np.ones(2)}),
    (["v1", TorchLike(0.0)], ["v1", TorchLike(1.0)]),
]


@pytest.mark.parametrize("number", range(len(CONTENT)))
def test_a_callable_is_known_by_the_digest_it_tells(number):
    one, other = (known(lambda case: flat(case), value) for value in CONTENT[number])
    assert teacher_digest(one) == teacher_digest(one) != teacher_digest(other)
    assert unseen([one, other]) == []


def test_a_torch_module_is_known_by_its_state():
    a, b = TorchLike(0.0), TorchLike(0.0)
    assert teacher_digest(a) == teacher_digest(b) and unseen(a) == []
    b.bias += 1
    assert teacher_digest(a) != teacher_digest(b)


def test_a_real_torch_module_is_known_by_its_state():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
    teacher = known(lambda case: flat(case), net)
    before = teacher_digest(teacher)
    assert teacher_digest(teacher) == before == teacher_digest(known(lambda case: case, net))
    net(torch.ones(2, 1, 4, 4))  # in training, a batch normalization's statistics move
    assert teacher_digest(teacher) != before
    assert len(teacher_digest(net.to(torch.bfloat16))) == 64


def test_a_torch_module_itself_is_no_teacher(tmp_path, two):
    class Module(TorchLike):
        def __call__(self, x):
            raise TypeError("conv3d() received Case")

    with pytest.raises(ValueError, match=r"takes a kdcore.Case .* PyTorch module Module does not"):
        kdcore.SoftTargets.write(Module(0.0), two, tmp_path)
    kdcore.SoftTargets.write(TorchLike(0.0), two, tmp_path)  # one that takes a case is


def test_a_file_may_be_the_digest(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"1")
    teacher = known(lambda case: flat(case), [tmp_path / "weights.pt", "v1"])
    before = teacher_digest(teacher)
    assert teacher_digest(teacher) == before
    (tmp_path / "weights.pt").write_bytes(b"2")
    assert teacher_digest(teacher) != before


def test_the_network_a_callable_wraps_may_be_its_digest():
    def teacher(model):
        return known(lambda case: kdcore.predict_probabilities(model, case), model)

    assert teacher_digest(teacher(network(0))) == teacher_digest(teacher(network(0)))
    assert teacher_digest(teacher(network(0))) != teacher_digest(teacher(network(1)))


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([{}], dtype=object), [object()]])
def test_a_digest_of_what_has_none_is_refused(value):
    with pytest.raises(ValueError, match="A digest is made of texts, numbers, arrays"):
        teacher_digest(known(lambda case: case, value))


def test_digests_of_networks_stay():
    """Old folders still open: this is what was written before callables were known by name."""
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, activation="relu")(inputs))
    model.set_weights([np.arange(2, dtype=np.float32).reshape(1, 1, 1, 2), np.ones(2, "f4")])
    settings = [[type(layer).__name__, _nameless(layer.get_config())] for layer in model.layers]
    expected = digest(settings, *model.get_weights())
    assert teacher_digest(model) == expected
    assert teacher_digest([model, model]) == digest([expected, expected])
    assert teacher_digest(flat) == digest("flat")


# --- a teacher that nobody can see into ----------------------------------------------------


def blind(bias=0.0):
    """A closure: what it closes over is not looked at."""

    def teacher(case):
        logits = np.stack([np.zeros(case.image.shape[:3]), case.image[..., 0] / 100 + bias], -1)
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    return teacher


def test_what_cannot_be_seen_is_said_once(tmp_path, two):
    with pytest.warns(UserWarning) as told:
        kdcore.SoftTargets.write(blind(), two, tmp_path)
    assert [Path(w.filename).name for w in told] == ["test_soft_targets.py"]
    assert "cannot be seen whether its code" in str(told[0].message)
    assert 'teacher.digest = "v1"' in str(told[0].message)
    assert "blind.<locals>.teacher" in read_json(tmp_path / "manifest.json")["teacher"]


@pytest.mark.parametrize("how", ["write", "open"])
def test_that_it_cannot_be_checked_is_said(tmp_path, two, how):
    with pytest.warns(UserWarning, match="cannot be seen"):
        kdcore.SoftTargets.write(blind(), two[:1], tmp_path)
    with pytest.warns(UserWarning, match="cannot be checked that .* is of this teacher") as told:
        if how == "write":
            assert len(kdcore.SoftTargets.write(blind(), two, tmp_path)) == 2
        else:
            kdcore.SoftTargets.open(tmp_path, teacher=blind())
    assert [Path(w.filename).name for w in told] == ["test_soft_targets.py"]


@pytest.mark.parametrize("other", [blind(bias=0.5), lambda case: blind()(case)])
def test_an_unseen_teacher_that_answers_otherwise_or_has_another_name(tmp_path, two, other):
    with pytest.warns(UserWarning, match="cannot be seen"):
        kdcore.SoftTargets.write(blind(), two[:1], tmp_path)
    with pytest.raises(SoftTargetsError, match="made with another teacher"):
        kdcore.SoftTargets.write(other, two, tmp_path)
    assert len(kdcore.SoftTargets.open(tmp_path)) == 1


def test_one_unseen_teacher_of_several_is_named(tmp_path, two):
    teachers = [network(), partial(blind(), bias=1)]
    assert unseen(teachers) == ["functools.partial"]
    assert teacher_digest(teachers) != teacher_digest([network(), blind()])


def test_a_digest_of_another_python_is_no_other_teacher(tmp_path, two):
    """The same source, compiled otherwise: only what the teacher tells counts."""
    first, second = {}, {}
    exec("def teacher(case): return flat(case)\nteacher.digest = 'v1'", first)
    exec("def teacher(case):\n    x = case\n    return flat(x)\nteacher.digest = 'v1'", second)
    assert teacher_digest(first["teacher"]) == teacher_digest(second["teacher"])


# --- reading without open files ------------------------------------------------------------


def test_voxels_are_those_of_the_map(tmp_path, two, rng):
    soft = kdcore.SoftTargets.write(network(), two, tmp_path)
    for case in two:
        where = rng.integers(0, case.image[..., 0].size, 50)
        expected = np.asarray(soft[case.case_id]).reshape(-1, 3)[where]
        received = kdcore.SoftTargets.open(tmp_path).voxels(case.case_id, where)
        np.testing.assert_array_equal(received, expected)


def test_a_file_that_changes_later_is_noticed(tmp_path, two):
    soft = kdcore.SoftTargets.write(network(), two, tmp_path)
    where = np.arange(10)
    soft.voxels("case_000", where)
    changed = (tmp_path / "case_000.npy").read_bytes()[:-2] + b"xy"
    (tmp_path / "new").write_bytes(changed)
    (tmp_path / "new").replace(tmp_path / "case_000.npy")
    for read in (lambda: soft.voxels("case_000", where), lambda: soft["case_000"]):
        with pytest.raises(SoftTargetsError, match="case_000.npy is not the file"):
            read()


def test_a_teacher_may_answer_in_any_order_of_axes_in_memory(tmp_path, two):
    teacher = known(lambda case: np.asfortranarray(flat(case)))
    soft = kdcore.SoftTargets.write(teacher, two, tmp_path)
    np.testing.assert_allclose(soft["case_001"], np.log(1 / 3), atol=1e-3)


def test_maps_in_fortran_order_are_refused(tmp_path, two):
    soft = kdcore.SoftTargets.write(flat, two, tmp_path)
    np.save(tmp_path / "case_000.npy", np.asfortranarray(soft["case_000"]))
    record = read_json(tmp_path / "case_000.json")
    record["array"] = file_digest(tmp_path / "case_000.npy")
    write_json(tmp_path / "case_000.json", record, sealed=True)
    with pytest.raises(SoftTargetsError, match="case_000.npy is not in C order"):
        kdcore.SoftTargets.open(tmp_path)["case_000"]


def test_more_soft_targets_than_open_files_are_allowed(tmp_path):
    """More maps than the process may open files, each read: none stays open or in memory."""
    resource = pytest.importorskip("resource")
    shape = (8, 32, 32)
    few = kdcore.Case("few", np.random.default_rng(0).normal(size=(*shape, 1)), None, (1, 1, 1))
    soft = kdcore.SoftTargets.write(flat, [few], tmp_path)
    record, array = read_json(tmp_path / "few.json"), (tmp_path / "few.npy").read_bytes()
    cases = [replace(few, case_id=f"case_{number:04d}") for number in range(300)]
    for case in cases:
        (tmp_path / f"{case.case_id}.npy").write_bytes(array)
        write_json(tmp_path / f"{case.case_id}.json", record, sealed=True)
    limit, fds = resource.getrlimit(resource.RLIMIT_NOFILE), Path("/proc/self/fd")
    opened = len(list(fds.iterdir())) if fds.exists() else 100
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 30, limit[1]))
        batches = kdcore.Batches(cases, (16, 16), 100, soft_targets=soft)
        for index in range(0, len(batches), 10):
            batches[index]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == opened + 30  # and none was needed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    if fds.exists():
        maps = Path("/proc/self/maps").read_text()
        assert str(tmp_path) not in maps and len(list(fds.iterdir())) <= opened + 5


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
    assert unseen([a, flat]) == []
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


def test_nothing_to_label_is_told(tmp_path):
    with pytest.raises(ValueError, match="at least one case to label"):
        kdcore.SoftTargets.write(lambda case: case.mask, [], tmp_path / "soft")


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

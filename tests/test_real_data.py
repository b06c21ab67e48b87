"""On the real volumes, where KDCORE_DATA says they are."""

import keras
import numpy as np
import pytest

import kdcore


@pytest.fixture(scope="module")
def real(real_folder):
    return kdcore.read_msd(real_folder)


def test_the_volumes_are_as_documented(real):
    assert len(real) >= 200
    for case in real:
        assert case.spacing_mm == (1.0, 1.0, 1.0) and case.sequences == ("MRI",)
        assert set(np.unique(case.mask)) == {0, 1, 2}
    shapes = np.array([case.mask.shape for case in real])
    assert (shapes.min(axis=0) >= (31, 40, 26)).all() and (shapes.max(axis=0) <= (43, 59, 47)).all()
    share = np.mean([(case.mask > 0).mean() for case in real])
    assert share == pytest.approx(0.053, abs=0.005)


def test_maxima_run_over_four_orders_of_magnitude(real):
    maxima = [case.image.max() for case in real]
    assert min(maxima) < 200 and max(maxima) > 1e6


@pytest.mark.parametrize("method", ["minmax", "zscore", "percentile"])
def test_every_volume_is_normalized(real, method):
    for case in real:
        out = kdcore.normalize(case.image, method)
        assert np.isfinite(out).all() and out.std() > 0.05


def test_the_fitted_minmax_leaves_most_volumes_black(real):
    split = kdcore.split_cases(real, 8, 20, 60)
    training = split.take(real, "labelled") + split.take(real, "unlabelled")
    fitted = kdcore.fit_minmax(training, split)
    spread = [np.percentile(fitted(case.image), 99) for case in training]
    assert np.median(spread) < 0.01


def test_slices_of_the_main_job_hold_whole_volumes(real):
    batches = kdcore.Batches(real[:4], (64, 48), 16, shuffle=False)
    total = sum(int((batches[i][1] > 0).sum()) for i in range(len(batches)))
    inside = sum(int((case.mask > 0).sum()) for case in real[:4])
    assert total >= inside  # padding repeats the border, and cuts nothing


def test_evaluate_a_perfect_answer(real):
    case = real[0]
    one_hot = np.eye(3, dtype=np.float32)[case.mask]
    from kdcore.evaluation.metrics import evaluate_case

    entry = evaluate_case(case, one_hot)
    for label in ("1", "2"):
        assert entry[label]["dice"] == 1.0
        assert entry[label]["surface_dice_1mm"] == pytest.approx(1)
        assert entry[label]["hd95_mm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exported from TensorFlow")
@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_exported_networks_say_the_same_of_real_slices(real, tmp_path, ending):
    pytest.importorskip({"onnx": "onnxruntime", "tflite": "ai_edge_litert"}[ending])
    keras.utils.set_random_seed(0)
    student = kdcore.unet((64, 48, 1), 3, filters=4)
    student.compile(keras.optimizers.Adam(1e-2), kdcore.DiceCrossEntropy(), jit_compile=False)
    student.fit(kdcore.Batches(real[:4], (64, 48), num_batches=20), verbose=0)
    exported = kdcore.load_exported(kdcore.export(student, tmp_path / f"student.{ending}"))
    x, _ = kdcore.Batches(real[4:8], (64, 48), 128, shuffle=False)[0]
    expected = student.predict_on_batch(x)
    assert expected.std() > 0.1
    np.testing.assert_allclose(exported.predict_on_batch(x), expected, atol=1e-4)

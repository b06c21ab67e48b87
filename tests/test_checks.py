import keras
import numpy as np
import pytest

import kdcore
from kdcore.evaluation import fidelity


def segmenter(sharpness=20.0, error=0.0):
    """Logits from an image that is its own mask; `error` blurs the classes."""
    inputs = keras.Input((None, None, 1))
    z = [-((inputs - k - error) ** 2) * sharpness for k in range(3)]
    return keras.Model(inputs, keras.layers.Concatenate()(z))


def blank():
    """A collapsed network: background everywhere."""
    inputs = keras.Input((None, None, 1))
    z = [inputs * 0 + (5.0 if k == 0 else 0.0) for k in range(3)]
    return keras.Model(inputs, keras.layers.Concatenate()(z))


@pytest.fixture
def seen(cases):
    return [
        kdcore.Case(c.case_id, c.mask[..., None].astype("float32"), c.mask, (1, 1, 1))
        for c in cases[:2]
    ]


def check(teacher, student, seen, **kwargs):
    return kdcore.check_teaching(teacher, student, seen, normalization=None, **kwargs)


def test_a_teacher_that_teaches(seen):
    report = check(
        segmenter(2.0),
        segmenter(1.5),
        seen,
        baseline=segmenter(error=0.55),
        student_before=blank(),
    )
    assert report.ok and not report.problems and "Yes." in str(report)
    assert report.teacher_dice == report.student_dice == 1.0 > report.baseline_dice
    assert report.agreement == 1.0 and report.agreement_before == 0.0
    assert report.zero_gradient_share < 0.01
    assert 0 < report.soft_target_entropy < report.highest_entropy


def test_fidelity_by_hand():
    """Two voxels: the teacher says background .8 and foreground .6, the student .5 of each."""
    p = np.array([[[[0.8, 0.2], [0.4, 0.6]]]])
    inputs = keras.Input((None, None, 1))
    even = keras.Model(inputs, keras.layers.Concatenate()([inputs * 0, inputs * 0]))
    case = kdcore.Case("a", np.ones((1, 1, 2, 1)), None, (1, 1, 1))
    close = fidelity(even, [case], {"a": np.log(p)}, temperature=1.0, normalization=None)
    kl = [x * np.log(x / 0.5) + (1 - x) * np.log((1 - x) / 0.5) for x in (0.8, 0.6)]
    assert close.background_kl == pytest.approx(kl[0], rel=1e-5)
    assert close.foreground_kl == pytest.approx(kl[1], rel=1e-5)
    assert close.dice_loss == pytest.approx(1 - 2 * 0.5 * 0.8 / (0.4 + 0.5), rel=1e-5)
    assert close.agreement == 0.0  # of two equal classes the student says background


def test_a_student_that_does_not_follow_where_it_learned(seen):
    masks = {case.case_id: case.mask for case in seen}
    targets = {name: np.log(np.eye(3)[mask] * 0.97 + 0.01) for name, mask in masks.items()}
    for student, follows in ((segmenter(2.0), True), (blank(), False)):
        close = fidelity(student, seen, targets, normalization=None)
        report = check(segmenter(2.0), segmenter(1.5), seen, training=close)
        assert report.ok == follows and "training scans  agreement" in str(report)
    assert "does not follow yet" in str(report)
    gaining = check(segmenter(2.0), segmenter(1.5), seen, training=close, baseline=blank())
    assert gaining.ok and gaining.training == close  # it need not follow to gain


def test_fidelity_needs_cases_of_the_same_classes(seen):
    with pytest.raises(ValueError, match="at least one case"):
        fidelity(segmenter(), [], {})
    targets = {case.case_id: np.zeros((*case.mask.shape, 2)) for case in seen}
    with pytest.raises(ValueError, match=f"{seen[0].case_id}: soft targets of shape"):
        fidelity(segmenter(), seen, targets)
    with pytest.raises(KeyError):
        fidelity(segmenter(), seen, {})


@pytest.mark.parametrize(
    ("teacher", "student", "others", "message"),
    [
        (blank(), segmenter(2.0), {}, "teacher segments nothing"),
        (segmenter(2.0), blank(), {}, "student collapsed"),
        (segmenter(error=0.55), segmenter(), {"baseline": segmenter()}, "no better than"),
        (segmenter(2.0), blank(), {"baseline": segmenter()}, "below the baseline"),
        (segmenter(2.0), segmenter(2.0), {}, "soft gradient is zero in 100%"),
        (segmenter(2.0), segmenter(), {"student_before": segmenter()}, "no more than before"),
        (segmenter(2000.0), segmenter(), {}, "one-hot"),
        (segmenter(0.01), segmenter(), {}, "almost uniform"),
    ],
)
def test_a_teacher_that_does_not(seen, teacher, student, others, message):
    report = check(teacher, student, seen, **others)
    assert not report.ok
    assert any(message in problem for problem in report.problems), report.problems
    assert message in str(report)


def test_softening_is_the_temperature():
    from kdcore.evaluation.teaching import soften

    logits = np.array([[1.0, 2.0, -1.0]])
    p = np.exp(logits) / np.exp(logits).sum()
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum()
    np.testing.assert_allclose(soften(p, 3.0), expected)


def test_needs_cases_with_masks(seen):
    split = kdcore.split_cases(seen, 1, 0, 1)
    with pytest.raises(ValueError, match="check_teaching may use validation cases only"):
        check(segmenter(), segmenter(), seen, split=split)
    with pytest.raises(ValueError, match="at least one validation case"):
        check(segmenter(), segmenter(), [])
    hidden = [kdcore.Case(c.case_id, c.image, None, (1, 1, 1)) for c in seen]
    with pytest.raises(ValueError, match="needs cases with masks"):
        check(segmenter(), segmenter(), hidden)


def test_an_impossible_temperature(seen):
    with pytest.raises(ValueError, match="temperature must be a positive"):
        kdcore.check_teaching(None, None, [], temperature=0)

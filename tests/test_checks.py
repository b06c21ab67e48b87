import keras
import numpy as np
import pytest

import kdcore


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

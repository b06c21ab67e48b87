import json

import numpy as np
import pytest
from pytest import approx
from scipy import stats

import kdcore
from kdcore.evaluation.scores import per_case
from kdcore.evaluation.statistics import (
    bootstrap_interval,
    equivalence,
    holm,
    sign_flip_p,
)


def results(**arms):
    """{arm: {case: {seed: (dice of label 1, dice of label 2)}}} in the results' form."""
    return {
        "arms": {
            name: {
                "per_case": {
                    case: {
                        seed: {"1": {"dice": one}, "2": {"dice": two}}
                        for seed, (one, two) in seeds.items()
                    }
                    for case, seeds in cases.items()
                }
            }
            for name, cases in arms.items()
        }
    }


def test_seeds_are_averaged_for_each_case_first():
    r = results(
        a={"x": {"0": (0.8, 0.6), "1": (0.6, 0.4)}, "y": {"0": (0.9, 0.9), "1": (0.9, 0.9)}},
        b={"y": {"0": (0.5, 0.5)}, "x": {"0": (0.5, 0.5)}},
    )
    assert per_case(r, "a").to_dict() == {"x": approx(0.6), "y": approx(0.9)}
    report = kdcore.compare(r, "a", "b")
    assert report["difference"] == approx(((0.6 - 0.5) + (0.9 - 0.5)) / 2)
    assert (report["cases"], report["seeds_a"], report["seeds_b"]) == (2, 2, 1)
    assert report["mean_a"] - report["mean_b"] == approx(report["difference"])


def test_cases_are_paired_by_name_not_by_order(rng):
    values = rng.uniform(0.5, 0.9, 30)
    a = {f"c{i}": {"0": (v + 0.02, v + 0.02)} for i, v in enumerate(values)}
    b = {f"c{i}": {"0": (v, v)} for i, v in reversed(list(enumerate(values)))}
    report = kdcore.compare(results(a=a, b=b), "a", "b")
    assert report["difference"] == approx(0.02)
    assert report["interval"] == approx([0.02, 0.02], abs=1e-9)
    assert report["p"] < 0.001


def test_undefined_values_are_left_out_and_counted():
    r = results(
        a={"x": {"0": (None, 0.5)}, "y": {"0": (None, None)}, "z": {"0": (0.5, 0.5)}},
        b={"x": {"0": (0.9, 0.4)}, "y": {"0": (0.1, 0.1)}, "z": {"0": (0.5, 0.5)}},
    )
    report = kdcore.compare(r, "a", "b")
    assert report["cases"] == 2 and report["undefined"] == 1
    assert kdcore.compare(r, "a", "b", label="2")["difference"] == approx(0.05)


def test_antisymmetric_and_reproducible(rng):
    a = {f"c{i}": {"0": (v, v)} for i, v in enumerate(rng.uniform(0, 1, 20))}
    b = {f"c{i}": {"0": (v, v)} for i, v in enumerate(rng.uniform(0, 1, 20))}
    r = results(a=a, b=b)
    forth, back = kdcore.compare(r, "a", "b"), kdcore.compare(r, "b", "a")
    assert forth == kdcore.compare(r, "a", "b")
    assert forth["difference"] == approx(-back["difference"])
    assert forth["p"] == approx(back["p"], abs=0.02)
    json.dumps(forth, allow_nan=False)


def test_interval_and_p_agree_with_theory(rng):
    values = rng.normal(0.3, 1.0, 80)
    low, high = bootstrap_interval(values)
    t = stats.t.interval(0.95, 79, values.mean(), stats.sem(values))
    assert [low, high] == approx(list(t), abs=0.04)
    assert sign_flip_p(values) == approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_interval_covers_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(0, 1, 40)
        low, high = bootstrap_interval(values)
        covered += low <= 0 <= high
    assert 87 <= covered <= 100


def test_no_difference_is_not_significant():
    assert sign_flip_p(np.array([0.1, -0.1, 0.2, -0.2])) == 1.0


def of_trainings(rng, luck, cases=200, seeds=10):
    """A constant gain of 0.02 over a baseline, and whatever the training's luck adds."""
    base = rng.uniform(0.4, 0.6, cases)

    def arm(gain, lucks):
        return {
            f"c{i:03}": {str(s): (v + gain + lucks[s],) * 2 for s in range(seeds)}
            for i, v in enumerate(base)
        }

    return results(a=arm(0.02, luck * rng.normal(size=seeds)), b=arm(0.0, np.zeros(seeds)))


def test_the_interval_over_seeds_holds_the_luck_of_training(rng):
    """All cases of a training share its luck, so more cases do not make it smaller."""
    report = kdcore.compare(of_trainings(rng, luck=0.01), "a", "b")
    low, high = report["interval_seeds"]
    assert report["interval"][1] - report["interval"][0] < 1e-9  # the same in each case
    expected = 2 * 1.96 * 0.01 / np.sqrt(10)
    assert 0.5 * expected < high - low < 1.5 * expected
    assert low < report["difference"] < high
    same = kdcore.compare(of_trainings(rng, luck=0.0), "a", "b")
    assert same["interval_seeds"] == approx([0.02, 0.02])


def test_the_interval_over_seeds_needs_the_same_several_seeds():
    one, two = {"x": {"0": (0.5, 0.5)}, "y": {"0": (0.6, 0.6)}}, {}
    for case, seeds in one.items():
        two[case] = {**seeds, "1": (0.7, None)}
    r = results(a=two, b=one, c=two)
    assert kdcore.compare(r, "a", "b")["interval_seeds"] is None
    assert kdcore.compare(r, "b", "b")["interval_seeds"] is None
    assert kdcore.compare(r, "a", "c")["interval_seeds"] == [0.0, 0.0]


def test_one_case_has_no_interval():
    r = results(a={"x": {"0": (0.5, 0.5)}}, b={"x": {"0": (0.4, 0.4)}})
    report = kdcore.compare(r, "a", "b")
    assert report["interval"] is None and report["p"] is None


def test_unknown_arm_and_label_are_named():
    r = results(a={"x": {"0": (0.5, 0.5)}}, b={"z": {"0": (0.4, 0.4)}})
    with pytest.raises(ValueError, match="no arm 'c'.*\\['a', 'b'\\]"):
        kdcore.compare(r, "a", "c")
    with pytest.raises(ValueError, match="no case in common"):
        kdcore.compare(r, "a", "b")
    with pytest.raises(ValueError, match="no label '9'"):
        kdcore.compare(r, "a", "a", label="9")
    with pytest.raises(ValueError, match="no metric 'iou'"):
        kdcore.compare(r, "a", "a", metric="iou")
    assert kdcore.compare(r, "a", "a", label=1)["difference"] == 0


# --- the gap between baseline and teacher -----------------------------------------------


def three(cases=("x", "y", "z"), student=0.6):
    def of(level):
        return {c: {"0": (level, level + 0.1 * i)} for i, c in enumerate(cases)}

    return results(baseline=of(0.4), student=of(student), teacher=of(0.8))


def test_half_of_the_gap_is_a_half():
    report = kdcore.gap_closed(three(), "student", "baseline", "teacher", label="1")
    assert report["share"] == approx(0.5) and report["interval"] == approx([0.5, 0.5])
    assert report["cases"] == 3
    assert kdcore.gap_closed(three(student=0.3), "student", "baseline", "teacher")["share"] < 0
    one = kdcore.gap_closed(three(cases=("x",)), "student", "baseline", "teacher")
    assert one["interval"] is None


def test_the_gap_is_one_of_means_not_a_mean_of_ratios():
    r = results(
        baseline={"x": {"0": (0.0, 0.0)}, "y": {"0": (0.8, 0.8)}},
        student={"x": {"0": (0.5, 0.5)}, "y": {"0": (0.8, 0.8)}},
        teacher={"x": {"0": (0.9, 0.9)}, "y": {"0": (0.9, 0.9)}},
    )
    report = kdcore.gap_closed(r, "student", "baseline", "teacher")
    assert report["share"] == approx(0.5 / (0.9 + 0.1))


def test_a_share_that_luck_of_training_decides_says_so():
    """0.5 of the gap in all cases; 0 with one seed, 1 with the other."""

    def of(*seeds):
        return {case: {str(s): (v, v) for s, v in enumerate(seeds)} for case in "xy"}

    r = results(baseline=of(0.4, 0.4), student=of(0.4, 0.8), teacher=of(0.8, 0.8))
    report = kdcore.gap_closed(r, "student", "baseline", "teacher")
    assert report["interval"] == approx([0.5, 0.5])
    assert report["interval_seeds"] == approx([0.0, 1.0])


def test_without_a_gap_there_is_no_share():
    with pytest.raises(ValueError, match=r"no gap to close: baseline has 0\.4"):
        kdcore.gap_closed(three(), "student", "teacher", "baseline", label="1")


def test_regions_are_compared_and_stay_out_of_the_mean():
    r = three()
    for arm in r["arms"].values():
        for seeds in arm["per_case"].values():
            seeds["0"]["whole"] = {"dice": 1.0}
    assert kdcore.compare(r, "student", "baseline", label="whole")["difference"] == 0
    assert per_case(r, "baseline")["x"] == approx(0.4)


# --- equivalence and many tests ------------------------------------------------------------


def arms_of(a, b):
    entry = lambda value: {"0": {"1": {"dice": value}}}  # noqa: E731
    return {
        "arms": {
            name: {"per_case": {f"c{i}": entry(v) for i, v in enumerate(values)}}
            for name, values in (("a", a), ("b", b))
        }
    }


def test_two_one_sided_tests_by_hand():
    """Differences 0.00 and 0.01: mean 0.005, standard error 0.005, one degree of freedom."""
    from scipy import stats

    row = equivalence(arms_of([0.50, 0.61], [0.50, 0.60]), "a", "b", margin=0.02)
    assert row["difference"] == pytest.approx(0.005)
    assert row["p_not_worse"] == pytest.approx(stats.t.sf((0.005 + 0.02) / 0.005, 1))
    assert row["p_not_better"] == pytest.approx(stats.t.cdf((0.005 - 0.02) / 0.005, 1))
    assert row["p"] == max(row["p_not_worse"], row["p_not_better"]) and row["cases"] == 2


def test_much_worse_is_not_equivalent_and_the_same_is(rng):
    b = rng.random(60)
    worse = equivalence(arms_of(b - 0.05 + 0.01 * rng.normal(size=60), b), "a", "b")
    same = equivalence(arms_of(b + 0.005 * rng.normal(size=60), b), "a", "b")
    assert worse["p_not_worse"] > 0.99 and worse["p_not_better"] < 1e-6
    assert same["p"] < 0.01
    exact = equivalence(arms_of(b, b), "a", "b")
    assert exact["p"] == 0.0
    assert equivalence(arms_of([0.5], [0.5]), "a", "b")["p"] is None
    with pytest.raises(ValueError, match="margin must be"):
        equivalence(arms_of(b, b), "a", "b", margin=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []

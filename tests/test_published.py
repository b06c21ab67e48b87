"""Numbers of one's own beside the published ones."""

import pandas as pd
import pytest
from scipy import stats

from kdcore.evaluation import beside_published, table_of, write_table
from kdcore.evaluation.published import expected_range


def arm(*dice):
    seeds = {str(i): {"1": {"dice": value}} for i, value in enumerate(dice)}
    return {"seeds": list(range(len(dice))), "per_case": {"a": seeds}}


def test_the_expected_range_is_a_prediction_interval():
    """Of 0.80, 0.82, 0.84: mean 0.82, sd 0.02, t(2) = 4.303, √(4/3)."""
    low, high = expected_range([0.80, 0.82, 0.84])
    half = 4.3027 * 0.02 * (4 / 3) ** 0.5
    assert (low, high) == pytest.approx((0.82 - half, 0.82 + half), abs=1e-4)
    assert expected_range([0.8]) is None


def test_it_holds_a_further_seed_in_95_of_100_studies(rng):
    draws = stats.norm.rvs(size=(4000, 4), random_state=rng)
    hits = 0
    for *seen, further in draws:
        low, high = expected_range(list(seen))
        hits += low <= further <= high
    assert 0.94 < hits / 4000 < 0.96


def test_the_table_says_within_or_not():
    published = {"arms": {"student": arm(0.80, 0.82, 0.84), "baseline": arm(0.7, 0.71, 0.72)}}
    own = {"arms": {"student": arm(0.81), "baseline": arm(0.60), "mine": arm(0.5)}}
    table = beside_published(own, published, "1", "x").splitlines()
    assert "0.810" in table[2] and table[2].rstrip(" |").endswith("yes")
    assert "0.600" in table[3] and table[3].rstrip(" |").endswith("no")
    assert len(table) == 5
    single = {"arms": {"student": arm(0.8)}}
    assert "–" in beside_published(own, single, "1", "x").splitlines()[2]


def test_the_difference_tells_what_the_arms_ranges_are_too_wide_for():
    """Seeds differ by 3 points, student and baseline of one seed always by 2."""
    baseline = (0.80, 0.83, 0.86)
    student = [value + 0.02 + drift for value, drift in zip(baseline, (-0.001, 0, 0.001))]
    published = {"arms": {"student": arm(*student), "baseline": arm(*baseline)}}
    own = {"arms": {"student": arm(0.83), "baseline": arm(0.83)}}
    one, other, difference = beside_published(own, published, "1", "x").splitlines()[2:]
    assert one.rstrip(" |").endswith("yes") and other.rstrip(" |").endswith("yes")
    assert "student − baseline" in difference and difference.rstrip(" |").endswith("no")


def of_cases(arm="x", **dice):
    return table_of({case: {"1": {"dice": value}} for case, value in dice.items()}, arm=arm)


def test_other_test_cases_are_not_compared():
    mine, theirs = of_cases(mine_1=0.5, a=0.5), of_cases(a=0.5, b=0.6, c=0.7)
    told = beside_published(mine, theirs, "1", "x")
    assert "Not comparable: these are 2 test cases, the published ones 3, of which 1" in told
    assert "yes" not in told and "|" not in told


def test_all_arms_are_compared_on_the_same_scans():
    """Scan b lacks the label: who finds nothing there has no Dice, who finds something 0."""
    mine = pd.concat([of_cases("student", a=0.8, b=None), of_cases("baseline", a=0.9, b=0.0)])
    mine = mine.reset_index(drop=True)
    table = beside_published(mine, mine, "1", "x", absent={"1": ["b"]})
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()[2:5]]
    assert rows == [
        ["student", "0.800", "0.800 (1 runs)"],
        ["baseline", "0.900", "0.900 (1 runs)"],
        ["student − baseline", "-0.100", "-0.100 (1 runs)"],
    ]
    assert "which 1 scans lack" in table


def test_runs_made_again_widen_the_range():
    once = {"arms": {"x": arm(0.80, 0.81)}}
    again = {"arms": {"x": arm(0.70, 0.75), "y": arm(0.1)}}
    assert "(2 runs)" in beside_published({"arms": {"x": arm(0.72)}}, once, "1", "x")
    told = beside_published({"arms": {"x": arm(0.72)}}, [once, again], "1", "x")
    assert "0.765 (4 runs)" in told and "yes" in told


def test_paths_will_do(tmp_path):
    path = write_table(of_cases(a=0.5), tmp_path / "published.csv.gz")
    told = beside_published(str(path), path)
    assert "Dice mean" in told and "0.500 (1 runs)" in told


def test_no_range_beyond_what_a_dice_can_be():
    table = beside_published({"arms": {"x": arm(0.5)}}, {"arms": {"x": arm(0.1, 0.9)}}, "1", "x")
    assert "0.000 … 1.000" in table

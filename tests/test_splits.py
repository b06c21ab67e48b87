from dataclasses import replace

import numpy as np
import pytest
from conftest import make_case
from hypothesis import given, settings
from hypothesis import strategies as st

import kdcore
from kdcore.data.splits import PARTS, LeakageError, Split

IDS = [f"c{i:02d}" for i in range(20)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 99))
def test_every_case_is_in_one_part(labelled, validation, test, seed):
    split = kdcore.split_cases(IDS, labelled, validation, test, seed)
    parts = [getattr(split, part) for part in PARTS]
    assert sorted(sum(parts, ())) == IDS
    assert list(map(len, parts)) == [
        labelled, 20 - labelled - validation - test, validation, test,
    ]  # fmt: skip


def test_same_seed_same_split_in_any_order():
    assert kdcore.split_cases(IDS, 4, 4, 4, 7) == kdcore.split_cases(IDS[::-1], 4, 4, 4, 7)
    assert kdcore.split_cases(IDS, 4, 4, 4, 7) != kdcore.split_cases(IDS, 4, 4, 4, 8)


def test_folds_test_each_case_once():
    folds = [kdcore.split_cases(IDS, 4, 4, 4, 7, fold) for fold in range(5)]
    assert sorted(sum((fold.test for fold in folds), ())) == IDS
    assert folds[0] == kdcore.split_cases(IDS, 4, 4, 4, 7)
    with pytest.raises(ValueError, match="hold only 5 folds of 4"):
        kdcore.split_cases(IDS, 4, 4, 4, 7, 5)


def test_redrawing_labels_leaves_validation_and_test_alone():
    split = kdcore.split_cases(IDS, 4, 4, 4)
    other = kdcore.split_cases(IDS, 4, 4, 4, labelled_seed=1)
    assert (other.validation, other.test) == (split.validation, split.test)
    assert other.labelled != split.labelled and len(other.labelled) == 4
    assert len(kdcore.split_cases(IDS, 6, 4, 4, labelled_seed=1).labelled) == 6


def test_written_and_read(tmp_path):
    split = kdcore.split_cases(IDS, 4, 4, 4, 7)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    (tmp_path / "split.json").write_text('{"labelled": []}')
    with pytest.raises(ValueError, match="split.json is no split"):
        Split.load(tmp_path / "split.json")


def test_masks_of_unlabelled_cases_are_hidden():
    cases = [make_case(i) for i in range(4)]
    split = kdcore.split_cases(cases, 1, 1, 1)
    assert [c.mask is None for c in split.take(cases, "unlabelled")] == [True]
    assert split.take(cases, "test")[0].mask is not None


def test_the_wrong_side_is_refused():
    split = kdcore.split_cases(IDS, 4, 4, 4)
    split.require(split.labelled, ("labelled",), "training")
    with pytest.raises(LeakageError, match="training may use labelled cases only.*in test"):
        split.require(split.test, ("labelled",), "training")
    with pytest.raises(LeakageError, match="in no part"):
        split.require(["unknown"], ("labelled",), "training")
    with pytest.raises(LeakageError, match="is in labelled and in test"):
        Split(("a",), (), (), ("a",))


def test_impossible_splits_are_refused():
    with pytest.raises(ValueError, match="21 cases are asked for, but there are 20"):
        kdcore.split_cases(IDS, 7, 7, 7)
    with pytest.raises(ValueError, match="unique"):
        kdcore.split_cases(["a", "a"], 1, 0, 0)
    split = kdcore.split_cases(IDS, 4, 4, 4)
    with pytest.raises(ValueError, match="not in the data"):
        split.take([make_case(0)], "test")
    with pytest.raises(ValueError, match="part must be one of"):
        split.take([], "training")


def test_cases_without_a_mask_are_unlabelled_and_nothing_else():
    cases = [make_case(i, labelled=i % 2 == 0) for i in range(10)]
    split = kdcore.split_cases(cases, 1, 1, 2)
    maskless = {case.case_id for case in cases if case.mask is None}
    assert maskless <= set(split.unlabelled) and len(split.unlabelled) == 6
    with pytest.raises(ValueError, match="there are 5 with a mask, and 5 without"):
        kdcore.split_cases(cases, 2, 2, 2)


# --- groups and strata -----------------------------------------------------------------------

FRAMES = [f"p{p:02d}_{frame}" for p in range(20) for frame in ("ed", "es")]


def patient(case_id):
    return case_id[:3]


def drawn(ids, num_labelled, num_validation, num_test, key, fold=0):
    """How the parts were drawn before there were groups, written down again."""
    order = np.random.default_rng(key).permutation(sorted(ids)).tolist()
    order = order[fold * num_test :] + order[: fold * num_test]
    ends = np.cumsum([num_test, num_validation, num_labelled])
    return [tuple(sorted(part)) for part in np.split(order, ends)]


def test_without_groups_the_draw_is_as_ever():
    split = kdcore.split_cases(["e", "b", "d", "a", "c"], 1, 1, 2, seed=3)
    assert split == Split(("d",), ("a",), ("b",), ("c", "e"), 3)
    for seed in range(1, 20):
        split = kdcore.split_cases(IDS, 4, 5, 3, seed, fold=seed % 4)
        test, validation, labelled, unlabelled = drawn(IDS, 4, 5, 3, [seed, 0], seed % 4)
        assert split == Split(labelled, unlabelled, validation, test, seed)
        _, _, labelled, unlabelled = drawn(split.labelled + split.unlabelled, 6, 0, 0, [seed, 1])
        again = kdcore.split_cases(IDS, 6, 5, 3, seed, fold=seed % 4, labelled_seed=seed)
        assert (again.labelled, again.unlabelled) == (labelled, unlabelled)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 99), st.booleans())
def test_whole_patients_come_to_one_side(labelled, validation, test, seed, as_mapping):
    groups = {i: patient(i) for i in FRAMES} if as_mapping else patient
    split = kdcore.split_cases(FRAMES, labelled, validation, test, seed, groups=groups)
    parts = [getattr(split, part) for part in PARTS]
    assert sorted(sum(parts, ())) == FRAMES
    patients = [set(map(patient, part)) for part in parts]
    assert list(map(len, patients)) == [
        labelled, 20 - labelled - validation - test, validation, test,
    ]  # fmt: skip
    assert sum(map(len, patients)) == len(set().union(*patients))


def test_patients_are_drawn_as_cases_of_their_names():
    split = kdcore.split_cases(FRAMES, 4, 5, 3, 7, groups=patient)
    alone = kdcore.split_cases(sorted(set(map(patient, FRAMES))), 4, 5, 3, 7)
    assert tuple(sorted(set(map(patient, split.test)))) == alone.test


def test_redrawing_keeps_patients_whole():
    split = kdcore.split_cases(FRAMES, 4, 5, 3, groups=patient)
    again = kdcore.split_cases(FRAMES, 4, 5, 3, groups=patient, labelled_seed=1)
    assert again.labelled != split.labelled and again.test == split.test
    assert len(set(map(patient, again.labelled))) == 4 and len(again.labelled) == 8


def test_a_patient_who_lacks_a_mask_is_unlabelled_as_a_whole():
    cases = [make_case(i, labelled=i != 3) for i in range(10)]
    groups = {case.case_id: f"p{i // 2}" for i, case in enumerate(cases)}
    for seed in range(5):
        split = kdcore.split_cases(cases, 1, 1, 2, seed, groups=groups)
        assert split.unlabelled == ("case_002", "case_003")
    with pytest.raises(
        ValueError, match="5 groups are asked for, but there are 4 with a mask, and 1"
    ):
        kdcore.split_cases(cases, 2, 1, 2, groups=groups)


@pytest.mark.parametrize("grouped", [False, True])
def test_each_part_holds_its_share_of_every_stratum(grouped):
    """15 of 20 patients are ill: 3 of 4 for each part."""
    ids, groups = (FRAMES, patient) if grouped else (IDS, None)
    for seed in range(1, 20):
        split = kdcore.split_cases(
            ids, 4, 4, 8, seed, groups=groups, stratify=lambda i: int(i[1:3]) % 4 > 0
        )
        ill = [sum(int(i[1:3]) % 4 > 0 for i in getattr(split, part)) for part in PARTS]
        exact = np.array([3, 3, 3, 6]) * (2 if grouped else 1)
        assert np.abs(ill - exact).max() <= (2 if grouped else 1) and sum(ill) == exact.sum()
    again = kdcore.split_cases(
        ids,
        4,
        4,
        8,
        groups=groups,
        stratify={i: int(i[1:3]) % 4 > 0 for i in ids},
        labelled_seed=5,
    )
    ill = sum(int(i[1:3]) % 4 > 0 for i in again.labelled) / (2 if grouped else 1)
    assert 2 <= ill <= 4


def test_by_what_the_mask_shows_and_in_folds():
    cases = [make_case(i) for i in range(12)]
    cases[::3] = [replace(c, mask=np.zeros_like(c.mask)) for c in cases[::3]]
    healthy = [c.case_id for c in cases[::3]]
    folds = [
        kdcore.split_cases(cases, 1, 2, 3, 0, k, stratify=lambda case: bool(case.mask.any()))
        for k in range(4)
    ]
    assert sorted(sum((fold.test for fold in folds), ())) == [case.case_id for case in cases]
    assert [len(set(fold.test) & set(healthy)) for fold in folds] == [1, 1, 1, 1]


def test_strata_are_random_but_for_their_share():
    tests = {
        i for seed in range(60)
        for i in kdcore.split_cases(IDS, 0, 0, 4, seed, stratify=lambda i: i > "c04").test
    }  # fmt: skip
    assert tests == set(IDS)


def test_rules_that_say_too_little_or_two_things():
    with pytest.raises(ValueError, match="groups says nothing of c03"):
        kdcore.split_cases(IDS, 1, 1, 1, groups=dict.fromkeys(IDS[:3], "p"))
    with pytest.raises(ValueError, match=r"The cases of p.. differ in what to stratify by: \['ed'"):
        kdcore.split_cases(FRAMES, 1, 1, 1, groups=patient, stratify=lambda i: i[4:])

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

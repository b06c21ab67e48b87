"""One long table: what is written is what is read, and what was published is what it was."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pytest import approx

import kdcore
from kdcore.evaluation import (
    equivalence,
    from_contract,
    gap_closed,
    mean_of,
    per_case,
    per_patient,
    per_seed,
    read_results,
    read_table,
    table_of,
    to_contract,
    where_present,
    write_results,
    write_table,
)
from kdcore.evaluation.scores import ABOUT, COLUMNS, by_seed, false_finds, false_volume

DOCS = Path(__file__).parents[1] / "docs" / "results"
PUBLISHED = json.loads((Path(__file__).parent / "published_numbers.json").read_text())
SCORES = {
    "case_1": {"1": {"dice": 0.8, "hd95_mm": 2.0}, "2": {"dice": 0.6, "hd95_mm": float("nan")}},
    "007": {"1": {"dice": 1 / 3, "hd95_mm": None}, "all": {"nll": 3.5}},
}


def about(*arms):
    described = dict.fromkeys(ABOUT, "x") | {"settings": {"steps": 3}, "study": "s"}
    return described | {"arms": {arm: {"params": 7} for arm in arms}}


def test_a_row_for_each_number():
    table = table_of(SCORES, study="s", arm="student", seed=3)
    assert tuple(table.columns) == COLUMNS and len(table) == 7
    assert (table["seed"] == 3).all() and table["value"].isna().sum() == 2
    assert list(table["case"].unique()) == ["case_1", "007"]
    assert table.query("label == 'all'")["value"].tolist() == [3.5]


def test_means_by_hand():
    table = pd.concat([table_of(SCORES, arm="a", seed=0), table_of(SCORES, arm="a", seed=1)])
    table.loc[(table["seed"] == 1) & (table["case"] == "007"), "value"] = np.nan
    assert by_seed(table, "a").shape == (2, 2)
    assert per_case(table, "a").to_dict() == {"007": approx(1 / 3), "case_1": approx(0.7)}
    assert per_seed(table, "a").tolist() == approx([(1 / 3 + 0.7) / 2, 0.7])
    assert mean_of(table, "a", "1", "hd95_mm") == 2.0
    assert mean_of(table, "a", "all", "nll") == 3.5


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
def test_a_file_holds_every_digit_and_is_the_same_bytes(tmp_path, name):
    table = table_of(SCORES, study="s", arm="NA")  # a name that pandas takes for nothing
    path = write_table(table, tmp_path / name)
    written = path.read_bytes()
    again = read_table(path)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert write_table(again, path).read_bytes() == written
    assert again["case"].tolist()[-1] == "007"


def test_a_study_is_a_table_and_what_it_is_of(tmp_path):
    table = table_of(SCORES, study="s", arm="a")
    path = write_results(table, about("a"), tmp_path / "s.csv.gz")
    again, read = read_results(path)
    pd.testing.assert_frame_equal(again, table)
    assert read == about("a")
    changed = gzip.decompress(path.read_bytes()).replace(b"0.8", b"0.9")
    path.write_bytes(gzip.compress(changed))
    with pytest.raises(ValueError, match="s.csv.gz is not as it was written: its digest changed"):
        read_results(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="s.csv.gz is damaged"):
        read_results(path)
    with pytest.raises(ValueError, match="different arms"):
        read_results(write_results(table, about("a", "b"), path))
    description = tmp_path / "s.json"
    description.write_text(description.read_text().replace('"x"', '"y"', 1))
    with pytest.raises(ValueError, match="s.json is not as it was written"):
        read_results(path)
    description.write_text('{"study": "s"}')
    with pytest.raises(ValueError, match="s.json describes no study: it lacks commit"):
        read_results(path)


@pytest.mark.parametrize("value", ["7", "-3", "True", "inf", "-inf", "high", '"0.5'])
def test_a_dice_that_cannot_be_is_refused(tmp_path, value):
    path = tmp_path / "r.csv"
    path.write_text(f"{','.join(COLUMNS)}\ns,student,0,x,1,dice,{value}\n")
    with pytest.raises(ValueError, match="r.csv is no table of scores"):
        read_table(path)


@pytest.mark.parametrize("column", COLUMNS)
def test_what_a_table_lacks_is_named(tmp_path, column):
    table = table_of(SCORES).drop(columns=column)
    with pytest.raises(ValueError, match=f"It lacks: .'{column}'"):
        write_table(table, tmp_path / "r.csv")
    table.to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(ValueError, match=f"r.csv is no table of scores: .*{column}"):
        read_table(tmp_path / "r.csv")


def test_a_number_that_stands_there_twice_is_refused():
    table = table_of(SCORES, arm="student")
    with pytest.raises(ValueError, match="dice of case_1, label 1, seed 0 of student stands in"):
        mean_of(pd.concat([table, table]), "student")


def test_the_nested_form_there_and_back():
    scores = {**SCORES, "007": {"1": {"dice": 0.5}, "all": {"nll": 3.5, "agreement": None}}}
    table = pd.concat([table_of(scores, study="s", arm="a", seed=s) for s in (0, 1)])
    nested = to_contract(table, about("a"))
    assert json.loads(json.dumps(nested, allow_nan=False)) == nested
    arm = nested["arms"]["a"]
    assert arm["per_case"]["case_1"]["1"]["2"] == {"dice": 0.6, "hd95_mm": None}
    assert arm["calibration"] == {"007": {"0": {"nll": 3.5}, "1": {"nll": 3.5}}}
    assert arm["agreement"] == {"007": {"0": None, "1": None}} and arm["params"] == 7
    assert nested["config"] == {"steps": 3}
    key = ["arm", "seed", "case", "label", "metric"]
    one, other = (t.sort_values(key).reset_index(drop=True) for t in (table, from_contract(nested)))
    pd.testing.assert_frame_equal(one, other)


def test_volumes_of_false_finds_are_averaged_over_all_runs():
    """Nothing in one run, 3 ml in the other; 5 ml where the label is there do not count."""
    table = pd.concat(
        [
            table_of({"y": {"1": {"volume_ml": v}}, "x": {"1": {"volume_ml": 5.0}}}, seed=seed)
            for seed, v in enumerate((0.0, 3.0))
        ]
    )
    assert false_volume(table, {"1": ["y"]}, "", "1") == approx(1.5)


def test_what_a_reference_lacks_is_a_false_find_and_no_dice():
    """Label 2 is not in y: the baseline finds it in its run, the student in one of two."""

    def of(x, y):
        both = zip("xy", (x, y), strict=True)
        return {case: {"1": {"dice": one}, "2": {"dice": two}} for case, (one, two) in both}

    table = pd.concat(
        [
            table_of(of((0.8, 0.7), (0.9, None)), arm="student", seed=0),
            table_of(of((0.6, 0.5), (0.9, 0.0)), arm="student", seed=1),
            table_of(of((0.5, 0.4), (0.14, 0.0)), arm="baseline", seed=0),
        ]
    )
    absent = {"1": [], "2": ["y"]}
    assert false_finds(table, absent, "baseline", "2") == (1, 1)
    assert false_finds(table, absent, "student", "2") == (1, 2)
    assert np.isnan(false_volume(table, absent, "student", "2")), "nobody measured it"
    rest = where_present(table.reset_index(drop=True), absent)
    compared = kdcore.compare(rest, "student", "baseline", label="2")
    assert compared["cases"] == 1 and compared["difference"] == approx(0.6 - 0.4)
    mean = kdcore.compare(rest, "student", "baseline")  # of y label 1 is left
    assert mean["difference"] == approx(((0.65 - 0.45) + (0.9 - 0.14)) / 2)
    assert (table["value"] == 0).sum() == 2


# --- what was published --------------------------------------------------------------------


def test_every_study_that_was_converted_is_sampled():
    """Later ones were written as tables."""
    assert {f"{name}.csv.gz" for name in PUBLISHED} <= {p.name for p in DOCS.glob("*.csv.gz")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_those_of_the_nested_files(name):
    """A sample of what the earlier files and code said, before both were replaced."""
    table, _ = read_results(DOCS / f"{name}.csv.gz")
    sample = PUBLISHED[name]
    for arm, label, metric, value in sample["means"]:
        assert mean_of(table, arm, label, metric) == approx(value, rel=0, abs=1e-12)
    for arm, seed, value in sample["seeds"]:
        assert per_seed(table, arm)[int(seed)] == approx(value, rel=0, abs=1e-12)
    index = ["arm", "seed", "case", "label", "metric"]
    values = table.set_index(index)["value"]
    for *place, value in sample["values"]:
        found = values[tuple(place)]
        assert found == value or (value is None and np.isnan(found))
    for key, again in (("comparisons", kdcore.compare), ("equivalence", equivalence)):
        for row in sample[key]:
            same(again(table, row["a"], row["b"], label=row["label"]), row)
    for row in sample["gap_closed"]:
        arms = row["student"], row["baseline"], row["teacher"]
        same(gap_closed(table, *arms, label=row["label"]), row)


def same(new, old):
    for key, value in old.items():
        exact = not isinstance(value, float | list)
        assert new[key] == (value if exact else approx(value, rel=0, abs=1e-12)), key


def test_two_scans_of_a_patient_are_one_witness():
    """0.5 and 0.7 are 0.6; what is undefined in one scan is that of the other."""
    scores = {
        "a1": {"1": {"dice": 0.5}, "2": {"dice": None}},
        "a2": {"1": {"dice": 0.7}, "2": {"dice": 0.4}},
        "b1": {"1": {"dice": 0.9}, "2": {"dice": 0.1}},
    }
    table = per_patient(table_of(scores, arm="x"), {"a1": "a", "a2": "a", "b1": "b"})
    assert per_case(table, "x", "1").to_dict() == {"a": approx(0.6), "b": approx(0.9)}
    assert per_case(table, "x").to_dict() == {"a": approx(0.5), "b": approx(0.5)}

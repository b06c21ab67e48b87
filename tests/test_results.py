import keras
import numpy as np
import pandas as pd
import pytest
from pytest import approx

import kdcore
from kdcore import training
from kdcore.evaluation import cost, figures, per_seed, table_of, tables, write_results
from kdcore.evaluation.scores import ABOUT, read_results
from kdcore.study import results
from kdcore.study.experiment import Run
from kdcore.study.settings import Task

TASK = Task("made up", "none", (), {"1": "one", "2": "two"}, lambda *_: [], volume=(4, 16, 16))
SPLIT = kdcore.Split(("a",), (), (), ("x", "y"))
RUNS = (
    ("student", 0, (0.8, 0.9)),
    ("student", 1, (0.6, 0.9)),
    ("baseline", 0, (0.5, 0.14)),
)


def finished(root, arm, seed, dice):
    run = Run(root, arm, seed, {}, SPLIT)
    model = kdcore.unet((16, 16, 1), 3, filters=2, depth=1)
    entry = {"surface_dice_1mm": 0.9, "hd95_mm": float("nan")}
    per_case = {
        case: {"1": {"dice": value, **entry}, "2": {"dice": value - 0.1, **entry}}
        for case, value in zip(("x", "y"), dice, strict=True)
    }
    training.keep(model, run.folder)
    run.finish(per_case)
    return run


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [results.record(finished(root, *one), TASK) for one in RUNS]


@pytest.fixture
def collected(records):
    """`(table, about)`, with one comparison."""
    table, about = results.collect("test", records, TASK, {})
    about["comparisons"] = [kdcore.compare(table, "student", "baseline")]
    return table, about


def test_has_the_contracts_form(collected, tmp_path):
    table, about = collected
    assert set(ABOUT) <= set(about)
    student = about["arms"]["student"]
    assert student["params"] > 0 and student["seeds"] == [0, 1]
    chosen = table.query("arm == 'student' and case == 'x' and seed == 1 and label == '1'")
    assert chosen.set_index("metric")["value"]["dice"] == 0.6
    row = about["comparisons"][0]
    assert row["difference"] == approx(((0.65 - 0.45) + (0.85 - 0.09)) / 2)
    path = write_results(table, about, tmp_path / "r.csv")
    assert "NaN" not in (tmp_path / "r.json").read_text()
    again, read = read_results(path)
    assert read == about and again.equals(table)
    for row in read["comparisons"]:
        assert kdcore.compare(again, row["a"], row["b"]) == row


def test_what_is_of_a_whole_case_has_the_label_all(records):
    one = {**records[0], "calibration": {"x": {"nll": 2.0}}, "agreement": {"x": 0.5, "y": None}}
    table, _ = results.collect("test", [one], TASK, {})
    of_all = table[table["label"] == "all"].set_index(["case", "metric"])["value"]
    assert of_all["x", "nll"] == 2.0 and of_all["x", "agreement"] == 0.5
    assert np.isnan(of_all["y", "agreement"]) and len(of_all) == 3
    assert "all" not in one["per_case"]["x"]


def test_it_is_told_where_runs_were_made_and_not_where_they_are_put_together(records):
    one, other = ({**record} for record in records[:2])
    one |= {"backend": "jax", "commit": "abc", "hardware": {"cores": 16, "accelerators": ["G"]}}
    other |= {"backend": "torch", "commit": "abc", "hardware": {"cores": 2, "accelerators": []}}
    _, made = results.collect("test", [one, other], TASK, {})
    assert made["backend"] == "jax, torch" and made["commit"] == "abc"
    assert made["hardware"] == {"cores": "16, 2", "accelerators": ["G"]}
    assert made["versions"] == one["versions"]


def test_what_a_difference_may_contain_besides_the_arms_is_said(collected):
    about = collected[1]
    (unequal,) = results.remarks(described(about))
    assert unequal.endswith(": student − baseline (2 and 1).")
    assert cells(tables.comparison_table(about["comparisons"]), 2)[-1] == "2 and 1"
    about["comparisons"] = []
    runs = {name: arm["runs"]["0"] for name, arm in about["arms"].items()}
    runs["student"] |= {"backend": "another", "teacher_digest": "another"}
    backends, taught = results.remarks(described(about, teacher="baseline"))
    assert "more than one backend" in backends and "another" in backends
    assert taught.startswith("student 0 learnt from another training of the teacher")
    runs["student"] |= {"backend": runs["baseline"]["backend"]}
    runs["student"] |= {"teacher_digest": runs["baseline"]["model_digest"]}
    assert results.remarks(described(about, teacher="baseline")) == []
    runs["student"] |= {"member_digests": {"baseline": "another", "not here": "x"}}
    (consists,) = results.remarks(described(about))
    assert "student 0 learnt from" in consists and "or consist of others" in consists
    runs["student"]["member_digests"]["baseline"] = runs["baseline"]["model_digest"]
    assert results.remarks(described(about)) == []


def test_whom_a_run_learnt_from_is_kept(records):
    one = {**records[0], "teacher_digest": "of the teacher"}
    _, made = results.collect("test", [one], TASK, {})
    assert made["arms"]["student"]["runs"]["0"]["teacher_digest"] == "of the teacher"


def described(about, teacher=None):
    taught = {"teacher": teacher} if teacher else None
    arms = {"student": {"distillation": taught}, "baseline": {"distillation": None}}
    return {**about, "settings": {"arms": arms}}


def test_tables(collected):
    table, about = collected
    text = tables.arm_table(table, about["arms"], {"1": "one", "2": "two"})
    assert cells(text, 2)[:5] == ["student", "2", "0.800", "0.700", "0.750"]
    assert "+48.00" in tables.comparison_table(about["comparisons"])
    assert cells(tables.seed_table(table), 2) == ["0", "0.800", "0.270"]
    assert cells(tables.seed_table(table), 3) == ["1", "0.700", "–"]
    assert results.collapsed(table, 0.3) == ["baseline 0"]


def test_the_short_table_fits_a_terminal(collected):
    table = collected[0]
    renamed = table.replace({"arm": {"student": "student-ensemble-150k"}})
    text = tables.summary(renamed, {"student-ensemble-150k": 153_891})
    assert max(map(len, text.splitlines())) <= 80
    student, size, dice, gain = cells(text, 2)
    assert (student, size, dice) == ("student-ensemble-150k", "153,891", "0.750")
    assert gain.startswith("+48.00 (+20.00 … +76.00")
    assert cells(text, 3) == ["baseline", "–", "0.270", "–"]
    assert cells(tables.summary(table), 0) == ["arm", "Dice", "− baseline, Dice points"]
    assert cells(tables.summary(table, baseline="nobody"), 2)[-1] == "–"


def test_one_network_has_one_speed(collected):
    """The student was measured beside other work; the baseline is the same network."""
    table, about = collected
    about["arms"]["student"]["ms_a_slice"] = 2.0
    about["arms"]["baseline"]["ms_a_slice"] = 0.5
    rows = tables.arm_table(table, about["arms"], {}).splitlines()[2:]
    assert all(row.rstrip(" |").endswith("| 0.50") for row in rows)


def test_table_of_the_gap():
    gap = {"student": "student", "label": "1", "share": 0.5, "interval": [0.25, 0.75], "cases": 9}
    text = tables.gap_table([gap], {"1": "one"})
    assert cells(text, 2) == ["student", "one", "50 % (25 … 75)", "9"]


def test_tables_and_figures_of_label_budgets(collected):
    table, studies = collected[0], []
    for labels, share in ((8, 0.5), (20, None)):
        gap = [{"student": "student", "label": "1", "share": share, "interval": [0.2, 0.8]}]
        about = {"settings": {"num_labelled": labels}, "gap_closed": gap if share else []}
        studies.append((table, about))
    text = tables.budget_table(studies, "1")
    assert cells(text, 0) == ["labels", "student", "baseline", "gap closed by student"]
    assert cells(text, 2) == ["8", "0.800", "0.320", "50 % (20 … 80)"]
    assert cells(text, 3) == ["20", "0.800", "0.320", "–"]
    renamed = table.replace({"arm": {"student": "mine"}}), studies[1][1]
    text = tables.budget_table([studies[0], renamed], "1")
    assert cells(text, 0)[1:4] == ["student", "baseline", "mine"]
    assert cells(text, 2)[1:4] == ["0.800", "0.320", "–"]
    assert cells(text, 3)[1:4] == ["–", "0.320", "0.800"]
    figure = figures.label_budgets({8: table, 20: table}, "1")
    line = figure.axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [8, 20] and line.get_ydata() == approx([0.8, 0.8])


def cells(text: str, line: int) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[line].split("|")[1:-1]]


def test_tables_of_adjusted_p_equivalence_and_calibration(collected):
    table, about = collected
    row = {**about["comparisons"][0], "p": 0.01, "p_holm": 0.03}
    text = tables.comparison_table([row, {**row, "p_holm": None}])
    assert cells(text, 0)[4:6] == ["p", "p, Holm"] and cells(text, 2)[4:6] == ["0.0100", "0.0300"]
    assert cells(text, 3)[5] == "–"
    same = {"a": "x", "b": "y", "label": "1", "difference": 0.001, "margin": 0.005}
    text = tables.equivalence_table([{**same, "p_not_worse": 0.02, "p": 0.2}])
    assert cells(text, 2) == ["x − y", "1", "+0.10", "± 0.5", "0.0200", "0.2000"]
    beliefs = {"ece": 0.1, "nll": 0.2, "brier": 0.3}
    of_all = {
        "x": {"all": {**beliefs, "agreement": 0.5}},
        "y": {"all": {**beliefs, "agreement": None}},
    }
    both = pd.concat([table, table_of(of_all, arm="student")])
    arms = {arm: {"runs": {"0": {"training_seconds": 7.0}}} for arm in ("student", "baseline")}
    text = tables.calibration_table(both, arms)
    assert cells(text, 2) == ["student", "0.1000", "0.2000", "0.3000", "0.500", "7"]
    assert cells(text, 3)[1:5] == ["–"] * 4


def test_figures_show_each_case_and_turn_dark(collected):
    table = collected[0]
    figure = figures.case_differences(table, "student", "baseline")
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_width() == approx(0.8)]
    assert heights == approx([20, 76])
    figures.recolor(figure, "dark")
    label = figure.axes[0].xaxis.label
    assert label.get_color() == figures.INK["dark"]
    figures.recolor(figure, "light")
    assert label.get_color() == figures.INK["light"]
    lines = figures.dots(table).axes[0].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [2, 2, 2, 1]  # cases, seeds; twice


def test_folds_are_put_together(records):
    first = records[0]
    renamed = {f"other-{k}": v for k, v in first["per_case"].items()}
    split = {**first["split"], "test": list(renamed)}
    second = {**first, "split": split, "per_case": renamed, "calibration": {}}
    table, both = results.collect("s", [first, second], TASK, {})
    arm = both["arms"]["student"]
    assert arm["seeds"] == [0] and list(arm["runs"]) == ["0, fold 0", "0, fold 1"]
    assert sorted(table["case"].unique()) == both["split"]["test"]
    assert len(both["split"]["test"]) == 4 and per_seed(table, "student").index.tolist() == [0]
    assert [fold["test"] for fold in both["split"]["folds"]] == [first["split"]["test"], [*renamed]]


def test_grid_of_temperature_and_alpha():
    cells_ = {"a": (1.0, 0.5, 0.8), "b": (2.0, 0.5, 0.9), "c": (2.0, 1.0, 0.7)}
    table = pd.concat(
        [table_of({"case": {"1": {"dice": dice}}}, arm=arm) for arm, (*_, dice) in cells_.items()]
    )
    arms = {
        arm: {"distillation": {"temperature": T, "alpha": alpha}}
        for arm, (T, alpha, _) in cells_.items()
    }
    text = tables.grid_table(table, arms)
    assert cells(text, 0) == ["T", "alpha 0.5", "alpha 1"]
    assert cells(text, 2) == ["1", "0.800", "–"] and cells(text, 3) == ["2", "0.900", "0.700"]


def test_runs_that_cannot_be_compared_are_refused(records):
    with pytest.raises(ValueError, match="no finished runs"):
        results.collect("s", [], TASK, {})
    other = {**records[0], "arm": "baseline"}
    other["split"] = {**other["split"], "test": ["z"]}
    with pytest.raises(ValueError, match="tested on different cases"):
        results.collect("s", [records[0], other], TASK, {})


def test_macs_by_hand():
    inputs = keras.Input((8, 8, 2))
    z = keras.layers.Conv2D(4, 3, padding="same", strides=2)(inputs)
    z = keras.layers.Conv2DTranspose(3, 2, strides=2)(z)
    model = keras.Model(inputs, z)
    # 4x4 outputs of 3*3*2*4, and 4x4 inputs of 2*2*4*3
    assert cost.count_macs(model) == 16 * 72 + 16 * 48
    assert cost.milliseconds_a_slice(model, (2, 8, 8), repeats=2) > 0


def test_macs_need_sizes():
    model = kdcore.unet((None, None, 1), 3, filters=2, depth=1)
    known = kdcore.unet((64, 48, 1), 3, filters=2, depth=1)
    assert cost.count_macs(model, (64, 48)) == cost.count_macs(known)
    with pytest.raises(ValueError, match="cost depends on the size"):
        cost.count_macs(model)
    with pytest.raises(ValueError, match="axis 1 has size 47"):
        cost.count_macs(model, (64, 47))


def test_macs_of_networks_within_networks():
    """A network that is used twice, at two sizes, within another; nothing of it is changed."""
    image = keras.Input((None, None, 2))
    inner = keras.Model(image, keras.layers.Conv2D(2, 3, padding="same")(image))
    z = inner(keras.layers.MaxPooling2D()(inner(image)))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.UpSampling2D()(z)))
    before = model.get_config()
    assert cost.count_macs(model, (8, 8)) == (64 + 16) * 3 * 3 * 2 * 2 + 64 * 2 * 3
    assert model.get_config() == before
    assert "compute_output_spec" not in vars(inner.layers[-1])


def test_figures_are_drawn(cases, tmp_path):
    case = cases[0]
    log_p = np.log(np.full((*case.mask.shape, 3), 1 / 3))
    drawn = {
        "loss": figures.loss_curves({"a": {"loss": [2, 1], "soft_loss": [1, 0.5]}}),
        "overlay": figures.overlays(
            {"good": case}, {"student": {case.case_id: case.mask}}, {"1": "one", "2": "two"}
        ),
        "soft": figures.soft_target_maps(case, log_p),
        "sequences": figures.sequences(case, {"1": "one", "2": "two"}),
    }
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 3000
    assert [axis.get_title() for axis in drawn["overlay"].axes] == [
        "image", "reference", "student",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "axes, place",
    [("SPR", (4, 4)), ("RAS", (0, 4)), ("LPI", (4, 4)), ("SRA", (0, 4)), ("SAL", (0, 4))],
)
def test_slices_stand_upright(axes, place):
    """Where the voxel with the highest index along both axes of a slice is drawn."""
    directions = dict(zip("RASLPI", [*np.eye(3), *-np.eye(3)], strict=True))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([directions[code] for code in axes], axis=1)
    case = kdcore.Case("a", np.zeros((5, 5, 5, 1)), None, (1, 1, 1), affine=affine)
    pixels = np.zeros((5, 5))
    pixels[4, 4] = 1
    row, column = np.argwhere(figures.upright(pixels, case))[0]
    assert (row, column) == place


def test_a_slice_to_show_without_a_reference():
    healthy, found = np.zeros((9, 4, 4), np.uint8), np.zeros((9, 4, 4), np.uint8)
    found[7, 1, 1] = 1
    assert figures._largest_plane(healthy, found) == 7
    assert figures._largest_plane(healthy) == 4

import json

import keras
import numpy as np
import pytest
from pytest import approx

import kdcore
from kdcore.evaluation import cost, figures, tables
from kdcore.study import results, summary
from kdcore.study.experiment import Run
from kdcore.study.tasks import Task

TASK = Task("made up", "none", (), {"1": "one", "2": "two"}, lambda *_: [], volume=(4, 16, 16))
SPLIT = kdcore.Split(("a",), (), (), ("x", "y"))


def finished(root, arm, seed, dice):
    run = Run(root, arm, seed, {}, SPLIT)
    model = kdcore.unet((16, 16, 1), 3, filters=2, depth=1)
    entry = {"surface_dice_1mm": 0.9, "hd95_mm": float("nan")}
    per_case = {
        case: {"1": {"dice": value, **entry}, "2": {"dice": value - 0.1, **entry}}
        for case, value in zip(("x", "y"), dice, strict=True)
    }
    run.finish(model, per_case)
    return run


@pytest.fixture
def collected(tmp_path):
    runs = [
        finished(tmp_path, arm, seed, dice)
        for arm, seed, dice in (
            ("student", 0, (0.8, 0.9)),
            ("student", 1, (0.6, 0.9)),
            ("baseline", 0, (0.5, 0.14)),
        )
    ]
    return results.collect("test", runs, [("student", "baseline")], TASK, {})


def test_has_the_contracts_form(collected, tmp_path):
    assert set(results.KEYS) <= set(collected)
    student = collected["arms"]["student"]
    assert student["params"] > 0 and student["seeds"] == [0, 1]
    assert student["per_case"]["x"]["1"]["1"]["dice"] == 0.6  # case, seed, label
    row = collected["comparisons"][0]
    assert row["difference"] == approx(((0.65 - 0.45) + (0.85 - 0.09)) / 2)
    path = results.save_results(collected, tmp_path / "r.json")
    assert "NaN" not in path.read_text() and results.load_results(path) == collected


def test_every_number_can_be_computed_again_from_the_file(collected, tmp_path):
    path = results.save_results(collected, tmp_path / "r.json")
    content = json.loads(path.read_text())
    for row in content["comparisons"]:
        assert kdcore.compare(content, row["a"], row["b"]) == row


def test_it_is_told_where_runs_were_made_and_not_where_they_are_put_together(tmp_path):
    runs = [finished(tmp_path, "student", seed, (0.8, 0.9)) for seed in (0, 1)]
    one, other = (results.record(run, TASK) for run in runs)
    one |= {"backend": "jax", "commit": "abc", "hardware": {"cores": 16, "accelerators": ["G"]}}
    other |= {"backend": "torch", "commit": "abc", "hardware": {"cores": 2, "accelerators": []}}
    made = results.collect("test", [one, other], [], TASK, {})
    assert made["backend"] == "jax, torch" and made["commit"] == "abc"
    assert made["hardware"] == {"cores": "16, 2", "accelerators": ["G"]}
    assert made["versions"] == one["versions"]


def test_what_a_difference_may_contain_besides_the_arms_is_said(collected):
    (unequal,) = summary.remarks(described(collected))
    assert unequal.endswith(": student − baseline (2 and 1).")
    assert cells(tables.comparison_table(collected), 2)[-1] == "2 and 1"
    collected["comparisons"] = []
    runs = {name: arm["runs"]["0"] for name, arm in collected["arms"].items()}
    runs["student"] |= {"backend": "another", "teacher_digest": "another"}
    backends, taught = summary.remarks(described(collected, teacher="baseline"))
    assert "more than one backend" in backends and "another" in backends
    assert taught.startswith("student 0 learnt from another training of the teacher")
    runs["student"] |= {"backend": runs["baseline"]["backend"]}
    runs["student"] |= {"teacher_digest": runs["baseline"]["model_digest"]}
    assert summary.remarks(described(collected, teacher="baseline")) == []
    runs["student"] |= {"member_digests": {"baseline": "another", "not here": "x"}}
    (consists,) = summary.remarks(described(collected))
    assert "student 0 learnt from" in consists and "or consist of others" in consists
    runs["student"]["member_digests"]["baseline"] = runs["baseline"]["model_digest"]
    assert summary.remarks(described(collected)) == []


def test_whom_a_run_learnt_from_is_kept(tmp_path):
    run = Run(tmp_path, "student", 0, {}, SPLIT)
    scores = {"1": {"dice": 0.5}, "2": {"dice": 0.5}}
    network = kdcore.unet((16, 16, 1), 3, filters=2, depth=1)
    run.finish(network, {"x": scores, "y": scores}, teacher_digest="of the teacher")
    made = results.collect("test", [results.record(run, TASK)], [], TASK, {})
    assert made["arms"]["student"]["runs"]["0"]["teacher_digest"] == "of the teacher"


def described(results, teacher=None):
    taught = {"teacher": teacher} if teacher else None
    arms = {"student": {"distillation": taught}, "baseline": {"distillation": None}}
    return {**results, "config": {"arms": arms}}


def test_tables(collected):
    text = tables.table(collected, {"1": "one", "2": "two"})
    line = next(line for line in text.splitlines() if "student" in line)
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:6] == ["student", "2", "0.800", "0.700", "0.750"]
    assert "+48.00" in tables.comparison_table(collected)
    assert "0.800" in tables.seed_table(collected).splitlines()[2]
    assert results.collapsed(collected, 0.3) == ["baseline 0"]


def test_one_network_has_one_speed(collected):
    """The student was measured beside other work; the baseline is the same network."""
    collected["arms"]["student"]["ms_a_slice"] = 2.0
    collected["arms"]["baseline"]["ms_a_slice"] = 0.5
    rows = tables.table(collected, {}).splitlines()[2:]
    assert all(row.rstrip(" |").endswith("| 0.50") for row in rows)


@pytest.mark.parametrize("value", [7, -3, True, "0.9", {}, float("inf")])
def test_a_dice_that_cannot_be_is_refused(collected, tmp_path, value):
    collected["arms"]["student"]["per_case"]["x"]["0"]["1"]["dice"] = value
    (tmp_path / "r.json").write_text(json.dumps(collected))
    with pytest.raises(ValueError, match="r.json is no results file: student, x: dice is|NaN|Inf"):
        results.load_results(tmp_path / "r.json")


@pytest.mark.parametrize("key", ["arms", "per_case", "x", "0", "1"])
def test_what_is_no_dict_is_named(collected, tmp_path, key):
    at = collected
    for step in ("arms", "student", "per_case", "x", "0", "1"):
        if step == key:
            at[step] = 5
            break
        at = at[step]
    (tmp_path / "r.json").write_text(json.dumps(collected))
    with pytest.raises(ValueError, match="r.json is no results file: .* must be a dict, not int"):
        results.load_results(tmp_path / "r.json")


def test_what_a_reference_lacks_is_a_false_find_and_no_dice(collected):
    """Label 2 is not in y: the baseline finds it in its run, the student in one of two."""
    collected["absent"] = {"1": [], "2": ["y"]}
    collected["arms"]["baseline"]["per_case"]["y"]["0"]["2"]["dice"] = 0.0
    for seed, value in (("0", None), ("1", 0.0)):
        collected["arms"]["student"]["per_case"]["y"][seed]["2"]["dice"] = value
    assert results.false_finds(collected, "baseline", "2") == (1, 1)
    assert results.false_finds(collected, "student", "2") == (1, 2)
    rest = results.where_present(collected)
    compared = kdcore.compare(rest, "student", "baseline", label="2")
    assert compared["cases"] == 1 and compared["difference"] == approx(0.6 - 0.4)
    mean = kdcore.compare(rest, "student", "baseline")  # of y label 1 is left
    assert mean["difference"] == approx(((0.65 - 0.45) + (0.9 - 0.14)) / 2)
    assert collected["arms"]["baseline"]["per_case"]["y"]["0"]["2"]["dice"] == 0.0


def test_table_of_the_gap(collected):
    collected["gap_closed"] = [
        {"student": "student", "label": "1", "share": 0.5, "interval": [0.25, 0.75], "cases": 9}
    ]
    line = tables.gap_table(collected, {"1": "one"}).splitlines()[2]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["student", "one", "50 % (25 … 75)", "9"]


def test_tables_and_figures_of_label_budgets(collected, tmp_path):
    summaries = []
    for labels, share in ((8, 0.5), (20, None)):
        gap = [{"student": "student", "label": "1", "share": share, "interval": [0.2, 0.8]}]
        closed = gap if share else []
        summaries.append({**collected, "config": {"num_labelled": labels}, "gap_closed": closed})
    lines = tables.budget_table(summaries, "1").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["labels", "student", "baseline", "gap closed by student"]
    assert cells[2] == ["8", "0.800", "0.320", "50 % (20 … 80)"]
    assert cells[3] == ["20", "0.800", "0.320", "–"]
    student, baseline = (collected["arms"][arm] for arm in ("student", "baseline"))
    alone = {**summaries[1], "arms": {"baseline": baseline, "mine": student}}
    lines = tables.budget_table([summaries[0], alone], "1").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][1:4] == ["student", "baseline", "mine"]
    assert cells[2][1:4] == ["0.800", "0.320", "–"] and cells[3][1:4] == ["–", "0.320", "0.800"]
    figure = figures.label_budgets(summaries, "1")
    line = figure.axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [8, 20] and line.get_ydata() == approx([0.8, 0.8])


def cells(text: str, line: int) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[line].split("|")[1:-1]]


def test_tables_of_adjusted_p_equivalence_and_calibration(collected):
    row = {**collected["comparisons"][0], "p": 0.01, "p_holm": 0.03}
    text = tables.comparison_table({"comparisons": [row, {**row, "p_holm": None}]})
    assert cells(text, 0)[4:6] == ["p", "p, Holm"] and cells(text, 2)[4:6] == ["0.0100", "0.0300"]
    assert cells(text, 3)[5] == "–"
    same = {"a": "x", "b": "y", "label": "1", "difference": 0.001, "margin": 0.005}
    text = tables.equivalence_table({"equivalence": [{**same, "p_not_worse": 0.02, "p": 0.2}]})
    assert cells(text, 2) == ["x − y", "1", "+0.10", "± 0.5", "0.0200", "0.2000"]
    arm = collected["arms"]["student"]
    arm["calibration"] = {c: {"0": {"ece": 0.1, "nll": 0.2, "brier": 0.3}} for c in ("x", "y")}
    arm["agreement"] = {"x": {"0": 0.5}, "y": {"0": None}}
    for run in (r for a in collected["arms"].values() for r in a["runs"].values()):
        run["training_seconds"] = 7.0
    text = tables.calibration_table(collected)
    assert cells(text, 2) == ["student", "0.1000", "0.2000", "0.3000", "0.500", "7"]
    assert cells(text, 3)[1:5] == ["–"] * 4


def test_figures_show_each_case_and_turn_dark(collected):
    figure = figures.case_differences(collected, "student", "baseline")
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_width() == approx(0.8)]
    assert heights == approx([20, 76])
    figures.recolor(figure, "dark")
    label = figure.axes[0].xaxis.label
    assert label.get_color() == figures.INK["dark"]
    figures.recolor(figure, "light")
    assert label.get_color() == figures.INK["light"]
    lines = figures.dots(collected).axes[0].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [2, 2, 2, 1]  # cases, seeds; twice


def test_folds_are_put_together(tmp_path):
    first = results.record(finished(tmp_path, "student", 0, (0.8, 0.9)), TASK)
    renamed = {f"other-{k}": v for k, v in first["per_case"].items()}
    split = {**first["split"], "test": list(renamed)}
    second = {**first, "split": split, "per_case": renamed, "calibration": {}}
    both = results.collect("s", [first, second], [], TASK, {})
    arm = both["arms"]["student"]
    assert arm["seeds"] == [0] and list(arm["runs"]) == ["0, fold 0", "0, fold 1"]
    assert sorted(arm["per_case"]) == both["split"]["test"] and len(arm["per_case"]) == 4
    assert [fold["test"] for fold in both["split"]["folds"]] == [first["split"]["test"], [*renamed]]


def test_grid_of_temperature_and_alpha():
    def student(T, alpha, dice):
        entry = {"case": {"0": {"1": {"dice": dice}}}}
        return {"seeds": [0], "per_case": entry}, {
            "distillation": {"temperature": T, "alpha": alpha}
        }

    arms = {"a": student(1.0, 0.5, 0.8), "b": student(2.0, 0.5, 0.9), "c": student(2.0, 1.0, 0.7)}
    grid = {
        "arms": {name: arm for name, (arm, _) in arms.items()},
        "config": {"arms": {name: settings for name, (_, settings) in arms.items()}},
    }
    lines = [line.split() for line in tables.grid_table(grid).splitlines()]
    assert lines[0] == ["|", "T", "|", "alpha", "0.5", "|", "alpha", "1", "|"]
    assert lines[2:] == [
        ["|", "1", "|", "0.800", "|", "–", "|"],
        ["|", "2", "|", "0.900", "|", "0.700", "|"],
    ]


def test_broken_results_files_are_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"study": "x", "arms"')
    with pytest.raises(ValueError, match="r.json is not valid JSON"):
        results.load_results(path)
    path.write_text('{"study": "x"}')
    with pytest.raises(ValueError, match="r.json is no results file: it lacks commit"):
        results.load_results(path)
    with pytest.raises(ValueError, match="no finished runs"):
        results.collect("s", [], [], TASK, {})
    one = finished(tmp_path, "student", 0, (0.8, 0.9))
    other = results.record(one, TASK)
    other["arm"], other["split"] = "baseline", {**other["split"], "test": ["z"]}
    with pytest.raises(ValueError, match="tested on different cases"):
        results.collect("s", [one, other], [], TASK, {})


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

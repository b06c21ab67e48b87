"""What people would rather look at than read. Needs matplotlib (`kdcore[figures]`)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcore.data.cases import Case
from kdcore.evaluation.scores import MEAN, Table, arms_of, per_case, per_seed
from kdcore.evaluation.statistics import compare
from kdcore.evaluation.teaching import soften

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision, on light and dark.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


INK = {"light": "#1f2328", "dark": "#e4e6eb"}


def recolor(figure: "Figure", scheme: str) -> None:
    """Turn what is ink (text, axes, black lines) to that of a "light" or a "dark" page."""
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    inks = {to_hex(ink) for ink in ("black", *INK.values())}
    for text in figure.findobj(Text):
        text.set_color(INK[scheme])
    for spine in figure.findobj(Spine):
        spine.set_edgecolor(INK[scheme])
    for line in figure.findobj(Line2D):
        if to_hex(line.get_color()) in inks:
            line.set_color(INK[scheme])
            line.set_markeredgecolor(INK[scheme])
    for axis in figure.axes:
        axis.tick_params(which="both", colors=INK[scheme])


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Training losses over epochs, one panel an arm.

    Args:
        histories: `{arm: {"loss": [...], "hard_loss": [...], "soft_loss": [...]}}`.
    """
    figure, axes = _panels(1, len(histories), 3.4, 2.8, sharey=True)
    colors = {"loss": "black", "hard_loss": COLORS[0], "soft_loss": COLORS[1]}
    for axis, (arm, history) in zip(axes[0], histories.items(), strict=True):
        for name, color in colors.items():
            if name in history:
                values = history[name]
                axis.plot(range(1, len(values) + 1), values, label=name, color=color)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(title=arm, xlabel="epoch", yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False)
    axes[0][0].set_ylabel("loss")
    return figure


def label_budgets(
    tables: Mapping[int, Table],
    label: str = MEAN,
    title: str = "",
    arms: Sequence[str] | None = None,
) -> "Figure":
    """Dice over the number of labelled cases: mean of an arm's seeds, band from least to most.

    Args:
        tables: Scores by the number of labelled cases; arms that all have are shown.
        label: A label, a region or "mean".
        title: Over the figure; says what the data are.
        arms: Only these.
    """
    figure, axes = _panels(1, 1, 5.4, 3.6)
    axis = axes[0][0]
    budgets = list(tables)
    known = [arms_of(table) for table in tables.values()]
    shared = [arm for arm in known[0] if all(arm in others for others in known)]
    arms = [arm for arm in shared if arms is None or arm in arms]
    for number, arm in enumerate(arms):
        values = [per_seed(table, arm, label).tolist() for table in tables.values()]
        color = COLORS[number % len(COLORS)]
        means = [np.mean(v) for v in values]
        axis.plot(budgets, means, marker="o", color=color, label=arm)
        axis.fill_between(
            budgets, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2
        )
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xscale="log", xlabel="labelled cases", ylabel=f"Dice, {label}", title=title)
    axis.set_xticks(budgets, [str(n) for n in budgets])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


def case_differences(table: Table, a: str, b: str, label: str = MEAN) -> "Figure":
    """The difference a − b of every test case, seeds averaged, from least to most.

    Args:
        table: Scores.
        a: An arm.
        b: The arm it is compared with.
        label: A label, a region or "mean".
    """
    difference = per_case(table, a, label) - per_case(table, b, label)
    values = 100 * np.sort(difference.dropna())
    compared = compare(table, a, b, label=label)
    figure, axes = _panels(1, 1, 5.4, 3.0)
    axis = axes[0][0]
    colors = [COLORS[4] if value >= 0 else COLORS[5] for value in values]
    axis.bar(range(1, len(values) + 1), values, color=colors, width=0.8)
    low, high = (100 * limit for limit in compared["interval"])
    axis.axhspan(low, high, color=COLORS[2], alpha=0.3, label="mean, 95 % interval")
    axis.axhline(100 * compared["difference"], color=COLORS[2])
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlabel="test case, sorted", ylabel=f"Dice points, {a} − {b}")
    axis.legend(frameon=False)
    return figure


def dots(table: Table, label: str = MEAN) -> "Figure":
    """The Dice of every arm: a small dot a test case, a large one a seed's mean.

    Args:
        table: Scores.
        label: A label, a region or "mean".
    """
    arms = arms_of(table)
    figure, axes = _panels(1, 1, 6.4, 0.7 + 0.34 * len(arms))
    axis = axes[0][0]
    for place, arm in enumerate(arms):
        cases = per_case(table, arm, label).to_numpy()
        color = COLORS[place % len(COLORS)]
        axis.plot(cases, np.full(len(cases), place), "|", color=color, alpha=0.5, markersize=9)
        means = per_seed(table, arm, label).to_numpy()
        axis.plot(means, np.full(len(means), place), "o", color=color, markersize=5)
    axis.set_yticks(range(len(arms)), arms)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlabel=f"Dice, {label}: lines are test cases, dots seeds")
    return figure


def overlays(
    rows: Mapping[str, Case],
    columns: Mapping[str, Mapping[str, np.ndarray]],
    labels: Mapping[str, str],
) -> "Figure":
    """Slices with masks drawn over them: a row for each case, a column for each mask.

    Args:
        rows: `{title: case}`; the slice with the largest reference foreground is shown, or
            if there is none, with the largest of the first mask that has any.
        columns: `{title: {case_id: (D, H, W) mask}}`; the image alone and the reference
            come before them.
        labels: Names of the foreground labels, {"1": "anterior", ...}.
    """
    titles = ["image", "reference", *columns]
    figure, axes = _panels(len(rows), len(titles), 1.7, 1.6)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis_row, (row_title, case) in zip(axes, rows.items(), strict=True):
        masks = [None, case.mask, *(column[case.case_id] for column in columns.values())]
        plane = _largest_plane(*masks[1:])
        for axis, mask in zip(axis_row, masks, strict=True):
            show_slice(axis, case, plane)
            if mask is not None:
                _show_mask(axis, case, mask, plane)
        axis_row[0].set_ylabel(row_title, fontsize=9)
    _legend(figure, labels)
    return figure


def sequences(case: Case, labels: Mapping[str, str], title: str = "") -> "Figure":
    """A slice of every sequence of a scan, then its reference mask.

    Args:
        case: With a mask, whose largest slice is shown.
        labels: Names of the foreground labels, {"1": "anterior", ...}.
        title: Over the figure.
    """
    plane = _largest_plane(case.mask)
    figure, axes = _panels(1, len(case.sequences) + 1, 1.9, 2.6)
    for i, (axis, name) in enumerate(zip(axes[0], (*case.sequences, "reference"), strict=True)):
        show_slice(axis, case, plane, sequence=min(i, len(case.sequences) - 1))
        axis.set_title(name, fontsize=9)
    _show_mask(axes[0][-1], case, case.mask, plane)
    _legend(figure, labels)
    figure.suptitle(title, fontsize=9)
    return figure


def soft_target_maps(
    case: Case, log_probabilities: np.ndarray, temperatures: Sequence[float] = (1, 2, 5)
) -> "Figure":
    """A slice, its reference, and the teacher's foreground probability at each temperature.

    Args:
        case: With a mask, whose largest slice is shown.
        log_probabilities: `(D, H, W, C)` of the teacher.
        temperatures: T, one panel each.
    """
    if case.regions is not None:
        raise ValueError(f"{case.case_id} has regions that overlap; they have no one background.")
    plane = _largest_plane(case.mask)
    figure, axes = _panels(1, 2 + len(temperatures), 1.9, 2.5)
    show_slice(axes[0][0], case, plane)
    show_slice(axes[0][1], case, plane)
    _show_mask(axes[0][1], case, case.mask, plane)
    axes[0][0].set_title("image", fontsize=9)
    axes[0][1].set_title("reference", fontsize=9)
    probabilities = np.exp(np.asarray(log_probabilities[plane], np.float32))
    for axis, temperature in zip(axes[0][2:], temperatures, strict=True):
        foreground = 1 - soften(probabilities, temperature)[..., 0]
        shown = axis.imshow(upright(foreground, case), cmap="magma", vmin=0, vmax=1)
        axis.set_title(f"foreground, T = {temperature:g}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(shown, ax=list(axes[0][2:]), shrink=0.7, location="right")
    bar.set_label("probability")
    return figure


def _panels(
    rows: int, columns: int, width: float, height: float, **kwargs: Any
) -> tuple["Figure", Any]:
    from matplotlib import pyplot

    return pyplot.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
        **kwargs,
    )


def show_slice(
    axis: Any, case: Case, plane: int, sequence: int = 0, image: np.ndarray | None = None
) -> None:
    """Draw one slice, grey, head or forehead up.

    Args:
        axis: Of matplotlib.
        case: The scan.
        plane: Index along the first axis.
        sequence: Index of the sequence.
        image: Voxels to show on the scale 0 … 1 in place of the scan's own.
    """
    pixels = (case.image if image is None else image)[plane, ..., sequence]
    low, high = np.percentile(pixels, (0.5, 99.5)) if image is None else (0.0, 1.0)
    axis.imshow(upright(pixels, case), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    axis.set_xticks([])
    axis.set_yticks([])


def upright(pixels: np.ndarray, case: Case) -> np.ndarray:
    """A slice `(H, W)` turned so that superior, or else anterior, is up in the first row."""
    import nibabel

    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if case.affine is None else case.affine
    codes = nibabel.aff2axcodes(affine)[1:]
    if codes[1] in ("S", "I") or (codes[1] in ("A", "P") and codes[0] in ("R", "L")):
        pixels, codes = pixels.T, codes[::-1]
    return pixels[::-1] if codes[0] in ("S", "A") else pixels


def _largest_plane(*masks: np.ndarray | None) -> int:
    """The slice with most foreground of the first mask that has any; else the middle one."""
    for mask in masks:
        if mask is not None and mask.any():
            mask = _layered(mask)
            return int((mask > 0).sum(axis=(1, 2)).argmax())
    return len(masks[0]) // 2 if masks and masks[0] is not None else 0


def _layered(mask: np.ndarray) -> np.ndarray:
    """Regions that overlap as one map, the later ones over the earlier; any other mask as it is."""
    if mask.ndim == 3:
        return mask
    return np.asarray(((mask > 0) * np.arange(1, mask.shape[-1] + 1)).max(axis=-1))


def _legend(figure: "Figure", labels: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=_color(int(k)), label=name) for k, name in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def _show_mask(axis: Any, case: Case, mask: np.ndarray | None, plane: int) -> None:
    assert mask is not None
    mask = _layered(mask)
    pixels = upright(mask[plane], case)
    for label in range(1, int(mask.max()) + 1):
        where = pixels == label
        if where.any():
            axis.contourf(where, levels=[0.5, 1.5], colors=[_color(label)], alpha=0.35)
            axis.contour(where, levels=[0.5], colors=[_color(label)], linewidths=1.2)


def _color(label: int) -> str:
    return COLORS[(label - 1) % len(COLORS)]

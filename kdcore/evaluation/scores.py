"""Scores as one long table, a row for each number: what is written, read and compared.

| column | |
|---|---|
| `study`, `arm`, `seed` | what was tried, how a network was trained, and with which luck |
| `case`, `label` | of which scan; a label, a region, or "all" where a number is of all voxels |
| `metric`, `value` | "dice", "surface_dice_1mm", "hd95_mm", "volume_ml"; "ece", "brier", "nll", \
"agreement" |

An undefined number is NaN, an empty field in a file. Several tables are put together with
`pandas.concat`. Beside a study's table lies a small JSON file: data, split, settings, versions,
hardware, and what the arms are.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from kdcore._files import plain, read_json, replacing, write_json
from kdcore._provenance import provenance
from kdcore.data.splits import Split
from kdcore.evaluation.metrics import labels_of

COLUMNS = ("study", "arm", "seed", "case", "label", "metric", "value")
ABOUT = (
    "study", "commit", "versions", "hardware", "backend", "data", "split", "settings", "arms",
)  # fmt: skip
"""What a study's JSON file holds, whatever else it does."""
ALL = "all"
"""Pseudo-label of what is measured over all voxels of a case."""
MEAN = "mean"
"""Pseudo-label: the mean over a case's foreground labels, regions left out."""
_MOST = {"dice": 1, "surface_dice_1mm": 1, "ece": 1, "agreement": 1, "brier": 2}
_WHOLE = {"surface_dice_1mm", "hd95_mm", "volume_ml", "nll", *_MOST}
_OF_A_CASE = ("calibration", "agreement")

Table: TypeAlias = pd.DataFrame
Source: TypeAlias = Table | str | Path | Mapping[str, Any]
"""A table, the path of one, or results in the nested form of `to_contract`."""


def table_of(
    scores: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    *,
    study: str = "",
    arm: str = "",
    seed: int = 0,
) -> Table:
    """What `evaluate` returned, as a table with a row for each number.

    Args:
        scores: `{case_id: {label: {metric: value}}}`; None is undefined, as NaN is.
        study: Name of the study.
        arm: Name of the arm, "student" or "baseline".
        seed: Of the training.

    Returns:
        Columns `study, arm, seed, case, label, metric, value`; cases, labels and metrics in
        the order of `scores`.

    Examples:
        >>> from kdcore.evaluation import table_of
        >>> table = table_of({"case_1": {"1": {"dice": 0.5}}}, arm="student")
        >>> table[["arm", "case", "metric", "value"]]
               arm    case metric  value
        0  student  case_1   dice    0.5
    """
    rows = [
        (study, arm, int(seed), str(case), str(label), metric, value)
        for case, labels in scores.items()
        for label, metrics in labels.items()
        for metric, value in metrics.items()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"seed": "int64", "value": "float64"})


def as_table(source: Source) -> Table:
    """The table itself, read from a file, or made from results in the nested form.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(source, str | Path):
        return read_table(source)
    if isinstance(source, Mapping):
        return from_contract(source)
    missing = [name for name in COLUMNS if name not in getattr(source, "columns", ())]
    if missing:
        raise ValueError(f"A table of scores has the columns {COLUMNS}. It lacks: {missing}.")
    return source


def by_seed(source: Source, arm: str, label: str = MEAN, metric: str = "dice") -> Table:
    """A metric of one arm: cases in rows, seeds in columns, NaN where it is undefined.

    Args:
        source: A table of scores, or its path.
        arm: Name of an arm.
        label: A label, a region, or "mean" for the mean over the labels that are defined.
        metric: Such as "dice".

    Returns:
        `(cases, seeds)`, both sorted.

    Raises:
        ValueError: If there is no such arm, label or metric, or a number stands there twice.
    """
    table, label = as_table(source), str(label)
    of_arm = _chosen(table, "arm", [arm])
    names = [name for name in of_arm["label"].unique() if name != ALL]
    labels = labels_of(names) if label == MEAN else [label]
    chosen = _chosen(_chosen(of_arm, "label", labels), "metric", [metric])
    twice = chosen.duplicated(["seed", "case", "label"])
    if twice.any():
        row = chosen[twice].iloc[0]
        raise ValueError(
            f"{metric} of {row['case']}, label {row['label']}, seed {row['seed']} of {arm} stands "
            "in the table twice. Give arms of several studies names of their own."
        )
    values = chosen["value"].where(np.isfinite(chosen["value"]))
    return values.groupby([chosen["case"], chosen["seed"]]).mean().unstack("seed").sort_index()


def per_patient(source: Source, patients: Mapping[str, str]) -> Table:
    """The same table with a row a patient: the mean of their scans.

    What is compared over patients: two scans of one person are no two witnesses.

    Args:
        source: A table of scores, or its path.
        patients: Of each case the patient.

    Examples:
        >>> from kdcore.evaluation import per_patient, table_of
        >>> table = table_of({"a1": {"1": {"dice": 0.5}}, "a2": {"1": {"dice": 0.7}}})
        >>> per_patient(table, {"a1": "a", "a2": "a"})[["case", "value"]]
          case  value
        0    a    0.6
    """
    table = as_table(source)
    table = table.assign(case=table["case"].map(patients))
    return table.groupby(list(COLUMNS[:-1]), sort=False, as_index=False)["value"].mean()


def _chosen(table: Table, column: str, wanted: Sequence[str]) -> Table:
    """The rows with these entries; raises if there is none."""
    rows = table[table[column].isin(wanted)]
    if rows.empty:
        known = sorted(table[column].unique())
        raise ValueError(
            f"There is no {column} {', '.join(map(repr, wanted))}. There are: {known}."
        )
    return rows


def per_case(source: Source, arm: str, label: str = MEAN, metric: str = "dice") -> pd.Series:
    """A metric of each case of an arm, averaged over the seeds where it is defined.

    Examples:
        >>> from kdcore.evaluation import per_case, table_of
        >>> scores = {"case_1": {"1": {"dice": 0.5}, "2": {"dice": 0.75}}}
        >>> per_case(table_of(scores, arm="student"), "student").to_dict()
        {'case_1': 0.625}
    """
    return by_seed(source, arm, label, metric).mean(axis=1)


def per_seed(source: Source, arm: str, label: str = MEAN, metric: str = "dice") -> pd.Series:
    """A metric of each seed of an arm, averaged over the cases where it is defined.

    Examples:
        >>> from kdcore.evaluation import per_seed, table_of
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> per_seed(table, "student", label="1").round(3).to_dict()
        {0: 0.85}
    """
    return by_seed(source, arm, label, metric).mean(axis=0)


def mean_of(source: Source, arm: str, label: str = MEAN, metric: str = "dice") -> float:
    """Over cases, seeds averaged first; NaN where it is nowhere defined.

    Examples:
        >>> from kdcore.evaluation import mean_of, table_of
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> round(float(mean_of(table, "student", label="1")), 3)
        0.85
    """
    return float(per_case(source, arm, label, metric).mean())


def arms_of(table: Table) -> list[str]:
    """The arms in the order in which they stand there."""
    return list(table["arm"].unique())


def where_present(table: Table, absent: Mapping[str, Iterable[str]]) -> Table:
    """The same table, undefined where a case's reference lacks the label.

    Such a score is undefined, or 0 where a network finds the label all the same, so that
    arms would be averaged over different cases. `false_finds` counts them.

    Args:
        table: Scores.
        absent: `{label: [case ids]}`.

    Examples:
        >>> from kdcore.evaluation import table_of, where_present
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> where_present(table, {"1": ["b"]})["value"].tolist()
        [0.8, nan]
    """
    return table.assign(value=table["value"].mask(_lacks(table, absent)))


def false_finds(
    table: Table, absent: Mapping[str, Iterable[str]], arm: str, label: str
) -> tuple[int, int]:
    """In how many runs a label was found that the reference lacks, and how many there are."""
    of_arm = table[(table["arm"] == arm) & (table["metric"] == "dice")]
    values = of_arm["value"][_lacks(of_arm, {label: absent[label]})]
    return int(values.notna().sum()), len(values)


def false_volume(table: Table, absent: Mapping[str, Iterable[str]], arm: str, label: str) -> float:
    """Mean volume of such finds over all those runs, in ml; NaN where it was not measured."""
    of_arm = table[(table["arm"] == arm) & (table["metric"] == "volume_ml")]
    return float(of_arm["value"][_lacks(of_arm, {label: absent[label]})].mean())


def _lacks(table: Table, absent: Mapping[str, Iterable[str]]) -> pd.Series:
    lacking = pd.Series(False, index=table.index)
    for label, cases in absent.items():
        lacking |= (table["label"] == label) & table["case"].isin(list(cases))
    return lacking


# --- files ---------------------------------------------------------------------------------


def write_table(table: Table, path: str | Path) -> Path:
    """Write `.csv`, or `.csv.gz`; the same bytes for the same table.

    Every number is written with all its digits, so that it is the same when read.

    Raises:
        ValueError: If a column is missing.

    Examples:
        >>> from kdcore.evaluation import table_of, write_table
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> write_table(table, "scores.csv").name
        'scores.csv'
    """
    path = Path(path)
    data = _text(table)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)
    return path


def read_table(path: str | Path) -> Table:
    """Read a table of scores.

    Raises:
        ValueError: If the file is damaged, lacks a column, or holds a score that none can be.

    Examples:
        >>> from kdcore.evaluation import read_table, table_of, write_table
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> read_table(write_table(table, "scores.csv.gz"))["value"].tolist()
        [0.8, 0.9]
    """
    return _parsed(_content(Path(path)), Path(path))


def describe(
    networks: Mapping[str, Any], *, study: str, data: Any, split: Split, settings: Any, **more: Any
) -> dict[str, Any]:
    """What a study is, for `write_results`: versions and hardware of this machine are added.

    Args:
        networks: The trained network of each arm.
        study: Its name.
        data: What the data are, as JSON values.
        split: Of the cases.
        settings: As JSON values.
        **more: Whatever else belongs to it.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import describe
        >>> network = kdcore.unet((16, 16, 1), num_classes=2, filters=2, depth=1)
        >>> split = kdcore.Split(("c",), (), ("d",), ("a", "b"))
        >>> what = {"study": "mine", "data": "my scans", "split": split, "settings": {}}
        >>> about = describe({"student": network}, **what)
        >>> about["study"], about["arms"]["student"]["params"] == network.count_params()
        ('mine', True)
    """
    arms = {name: {"params": network.count_params()} for name, network in networks.items()}
    own = {"study": study, "data": data, "split": vars(split), "settings": settings, "arms": arms}
    described: dict[str, Any] = plain({**provenance(), **own, **more})
    return described


def write_results(table: Table, about: Mapping[str, Any], path: str | Path) -> Path:
    """Write a study: its table, and beside it a JSON file with what it is.

    Args:
        table: Scores.
        about: Holds at least `ABOUT`; `arms[name]` of each arm in the table, with `params`.
        path: Of the table, `.csv` or `.csv.gz`.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import describe, table_of, write_results
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> network = kdcore.unet((16, 16, 1), num_classes=2, filters=2, depth=1)
        >>> split = kdcore.Split(("c",), (), ("d",), ("a", "b"))
        >>> what = {"study": "mine", "data": "my scans", "split": split, "settings": {}}
        >>> about = describe({"student": network}, **what)
        >>> write_results(table, about, "mine.csv").name
        'mine.csv'
    """
    path = write_table(table, path)
    digest = hashlib.sha256(_text(table)).hexdigest()
    write_json(_about_path(path), {**about, "table_sha256": digest}, indent=None, sealed=True)
    return path


def read_results(path: str | Path) -> tuple[Table, dict[str, Any]]:
    """Read a study: `(table, about)`.

    Args:
        path: Of its table.

    Raises:
        ValueError: If either file is damaged or changed, or they do not belong together.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import describe, read_results, table_of, write_results
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> network = kdcore.unet((16, 16, 1), num_classes=2, filters=2, depth=1)
        >>> split = kdcore.Split(("c",), (), ("d",), ("a", "b"))
        >>> what = {"study": "mine", "data": "my scans", "split": split, "settings": {}}
        >>> about = describe({"student": network}, **what)
        >>> table, about = read_results(write_results(table, about, "mine.csv"))
        >>> about["study"], len(table)
        ('mine', 2)
    """
    path = Path(path)
    about = read_json(_about_path(path))
    missing = [key for key in ABOUT if key not in about] if isinstance(about, dict) else ABOUT
    if missing:
        raise ValueError(f"{_about_path(path)} describes no study: it lacks {', '.join(missing)}.")
    data = _content(path)
    table = _parsed(data, path)
    arms = about["arms"]
    if not isinstance(arms, dict) or set(arms) != set(arms_of(table)):
        raise ValueError(f"{_about_path(path)} and {path.name} have different arms.")
    digest = about.pop("table_sha256", None)
    if digest not in (None, hashlib.sha256(data).hexdigest()):
        raise ValueError(f"{path} is not as it was written: its digest changed. Restore it.")
    return table, about


def _about_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".json")


def _text(table: Table) -> bytes:
    columns = as_table(table)[list(COLUMNS)]
    text: str = columns.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}. Restore it, or make it again.") from error


def _parsed(data: bytes, path: Path) -> Table:
    try:
        # As text: pandas would take a case "007" for a number, and an arm "NA" for nothing.
        read = as_table(pd.read_csv(BytesIO(data), dtype=str, keep_default_na=False))
        values = np.array([float(text or "nan") for text in read["value"]])
        table = read[list(COLUMNS)].assign(value=values).astype({"seed": "int64"})
        _check(table)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no table of scores: {error}") from error
    return table


def _check(table: Table) -> None:
    """No score is infinite; none that kdcore measures is below 0 or above what it can be."""
    value, metric = table["value"], table["metric"]
    most = metric.map(_MOST).fillna(np.inf)
    wrong = np.isinf(value) | (value > most) | ((value < 0) & metric.isin(_WHOLE))
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ValueError(f"{row['arm']}, {row['case']}: {row['metric']} is {row['value']}.")


# --- the nested form -----------------------------------------------------------------------


def from_contract(results: Mapping[str, Any]) -> Table:
    """The table of results in the nested form.

    Args:
        results: `arms[name]["per_case"][case_id][seed][label][metric]`; beside `per_case`
            perhaps `calibration[case_id][seed][metric]` and `agreement[case_id][seed]`.

    Examples:
        >>> from kdcore.evaluation import from_contract
        >>> results = {"arms": {"student": {"per_case": {"a": {"0": {"1": {"dice": 0.5}}}}}}}
        >>> from_contract(results)["value"].tolist()
        [0.5]
    """
    parts = [table_of({})]
    for arm, entry in results.get("arms", {}).items():
        of_seeds: dict[str, dict[str, Any]] = {}
        for part in ("per_case", *_OF_A_CASE):
            for case, seeds in entry.get(part, {}).items():
                for seed, scores in seeds.items():
                    of_case = of_seeds.setdefault(seed, {}).setdefault(case, {})
                    of_case.update(scores if part == "per_case" else _of_all(of_case, part, scores))
        for seed, scores in of_seeds.items():
            parts.append(table_of(scores, study=results.get("study", ""), arm=arm, seed=int(seed)))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _of_all(of_case: Mapping[str, Any], part: str, scores: Any) -> dict[str, Any]:
    new = scores if part == "calibration" else {part: scores}
    return {ALL: {**of_case.get(ALL, {}), **new}}


def to_contract(table: Table, about: Mapping[str, Any]) -> dict[str, Any]:
    """Results in the nested form: JSON values, undefined numbers None.

    Returns:
        `about` with the settings under `config`, and `arms[name]` with
        `per_case[case_id][seed][label][metric]`, `calibration[case_id][seed][metric]` and
        `agreement[case_id][seed]`, where they were measured.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import describe, table_of, to_contract
        >>> table = table_of({"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.9}}}, arm="student")
        >>> network = kdcore.unet((16, 16, 1), num_classes=2, filters=2, depth=1)
        >>> split = kdcore.Split(("c",), (), ("d",), ("a", "b"))
        >>> what = {"study": "mine", "data": "my scans", "split": split, "settings": {}}
        >>> about = describe({"student": network}, **what)
        >>> to_contract(table, about)["arms"]["student"]["per_case"]["a"]
        {'0': {'1': {'dice': 0.8}}}
    """
    arms: dict[str, Any] = {name: dict(entry) for name, entry in about["arms"].items()}
    for row in table.itertuples(index=False):
        part, place = _place(row)
        at = arms.setdefault(row.arm, {}).setdefault(part, {})
        for step in place[:-1]:
            at = at.setdefault(step, {})
        at[place[-1]] = row.value
    rest = {key: value for key, value in about.items() if key not in ("arms", "settings")}
    nested: dict[str, Any] = plain({**rest, "config": about["settings"], "arms": arms})
    return nested


def _place(row: Any) -> tuple[str, tuple[str, ...]]:
    case, seed = row.case, str(row.seed)
    if row.label != ALL:
        return "per_case", (case, seed, row.label, row.metric)
    if row.metric == "agreement":
        return "agreement", (case, seed)
    return "calibration", (case, seed, row.metric)

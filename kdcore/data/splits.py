"""Which case is used for what: by case, never by slice, written down and checked."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcore._files import read_json, write_json
from kdcore.data.cases import Case

PARTS = ("labelled", "unlabelled", "validation", "test")

Rule = Mapping[str, Hashable] | Callable[[Any], Hashable]
"""Of each case something: by its id, or what a function says of the case (or id) passed."""


class LeakageError(ValueError):
    """A case was about to be used on the wrong side of a split.

    Examples:
        >>> import kdcore
        >>> split = kdcore.Split(labelled=("a", "b"), unlabelled=(), validation=("c",), test=("d",))
        >>> split.require(["d"], ("labelled", "unlabelled"), "Training")
        Traceback (most recent call last):
        kdcore.data.splits.LeakageError: Training may use labelled or unlabelled ...
    """


@dataclass(frozen=True)
class Split:
    """Case ids of the four parts; a case is in one part only.

    Attributes:
        labelled: Training cases whose masks are used.
        unlabelled: Training cases whose masks, if there are any, are hidden.
        validation: For choosing settings and stopping.
        test: For the result, once.
        seed: The seed it was drawn with.

    Examples:
        >>> import kdcore
        >>> split = kdcore.split_cases(["a", "b", "c", "d", "e"], 1, 1, 1)
        >>> len(split.labelled), len(split.unlabelled), len(split.validation), len(split.test)
        (1, 2, 1, 1)
    """

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        where: dict[str, str] = {}
        for part in PARTS:
            for case_id in getattr(self, part):
                if case_id in where:
                    raise LeakageError(
                        f"{case_id} is in {where[case_id]} and in {part}. A case belongs to "
                        "one part."
                    )
                where[case_id] = part

    def take(self, cases: Iterable[Case], part: str) -> list[Case]:
        """The cases of one part, in its order; unlabelled ones without their masks."""
        by_id = {case.case_id: case for case in cases}
        missing = [i for i in self._part(part) if i not in by_id]
        if missing:
            raise ValueError(
                f"{len(missing)} {part} cases of the split are not in the data, among them "
                f"{missing[0]}. Was the split made for other data?"
            )
        chosen = [by_id[case_id] for case_id in self._part(part)]
        if part == "unlabelled":
            return [replace(case, mask=None) for case in chosen]
        return chosen

    def require(self, case_ids: Iterable[str], parts: Sequence[str], purpose: str) -> None:
        """Raise `LeakageError` unless every case belongs to one of `parts`."""
        where = {i: part for part in PARTS for i in getattr(self, part)}
        for case_id in case_ids:
            part = where.get(case_id)
            if part not in parts:
                raise LeakageError(
                    f"{purpose} may use {' or '.join(parts)} cases only, but {case_id} is "
                    f"{'in ' + part if part else 'in no part of the split'}."
                )

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read what `save` wrote."""
        content = read_json(path)
        try:
            return cls(**{part: tuple(content[part]) for part in PARTS}, seed=content["seed"])
        except (KeyError, TypeError, LeakageError) as error:
            raise ValueError(f"{path} is no split: {error!r} is missing or wrong.") from error

    def _part(self, part: str) -> tuple[str, ...]:
        if part not in PARTS:
            raise ValueError(f"part must be one of {PARTS}. Received: {part!r}.")
        ids: tuple[str, ...] = getattr(self, part)
        return ids


def split_cases(
    case_ids: Iterable[str | Case],
    num_labelled: int,
    num_validation: int,
    num_test: int,
    seed: int = 0,
    fold: int = 0,
    labelled_seed: int = 0,
    *,
    groups: Rule | None = None,
    stratify: Rule | None = None,
) -> Split:
    """Draw validation and test cases, then labelled ones; the rest is unlabelled.

    Args:
        case_ids: Ids or cases; their order does not matter. Cases without a mask can only be
            unlabelled; of an id the split does not know whether it has one.
        num_labelled: Number of training cases whose masks are used; of groups, if there are
            `groups`, as the two numbers below.
        num_validation: Number of validation cases.
        num_test: Number of test cases.
        seed: Same seed and ids, same split.
        fold: Of a cross-validation: the test cases of different folds are different ones.
        labelled_seed: Another number draws other labelled cases among the training cases, and
            leaves validation and test as they are: for the seeds of one study.
        groups: Whose scan a case is: `{case id: patient}`, or a function of what `case_ids` holds.
            All cases of a patient come to one part; if one of them lacks a mask, to the unlabelled.
        stratify: A property, likewise, that each part shall hold in about the same share: the
            site, or whether there is a tumour. Numbers are as exact as whole cases allow. The
            cases of a group must agree on it.

    Raises:
        ValueError: If there are fewer cases (or groups) than asked for, an id comes twice,
            a mapping lacks one, or a group has two properties.

    Examples:
        >>> import kdcore
        >>> ids = ["p1_left", "p1_right", "p2_left", "p2_right", "p3_left", "p3_right"]
        >>> split = kdcore.split_cases(ids, 1, 1, 1, groups=lambda case_id: case_id[:2])
        >>> split.labelled, split.validation, split.test
        (('p2_left', 'p2_right'), ('p1_left', 'p1_right'), ('p3_left', 'p3_right'))
    """
    given = list(case_ids)
    ids = [_id(item) for item in given]
    if len(set(ids)) != len(ids):
        raise ValueError("Case ids must be unique; at least one comes twice.")
    if min(num_labelled, num_validation, num_test) < 0:
        raise ValueError("The numbers of cases must not be negative.")
    units = _units(given, groups)
    maskless = [name for name, items in units.items() if any(map(_lacks_mask, items))]
    names = sorted(set(units) - set(maskless))
    kind = "cases" if groups is None else "groups"
    needed = num_labelled + num_validation + num_test
    if needed > len(names):
        raise ValueError(
            f"{num_labelled} labelled + {num_validation} validation + {num_test} test = "
            f"{needed} {kind} are asked for, but there are {len(names)}"
            + (f" with a mask, and {len(maskless)} without." if maskless else ".")
        )
    if not 0 <= fold * num_test <= len(names) - num_test:
        raise ValueError(
            f"fold must be ≥ 0, and {len(names)} {kind} hold only {len(names) // max(1, num_test)} "
            f"folds of {num_test} test {kind}. Received: fold={fold}."
        )
    order = _drawn([seed, 0], units, names, stratify)
    order = order[fold * num_test :] + order[: fold * num_test]
    held_out = num_validation + num_test
    training = order[held_out:]
    if labelled_seed:
        training = _drawn([labelled_seed, 1], units, sorted(training), stratify)
    return Split(
        labelled=_ids(units, training[:num_labelled]),
        unlabelled=_ids(units, [*training[num_labelled:], *maskless]),
        validation=_ids(units, order[num_test:held_out]),
        test=_ids(units, order[:num_test]),
        seed=labelled_seed or seed,
    )


def _units(items: Iterable[str | Case], groups: Rule | None) -> dict[str, list[str | Case]]:
    """What is drawn as a whole, by name: the cases of a group, or each alone."""
    units: dict[str, list[str | Case]] = {}
    for item in items:
        name = _id(item) if groups is None else str(_said(groups, item, "groups"))
        units.setdefault(name, []).append(item)
    return units


def _drawn(
    key: Sequence[int],
    units: Mapping[str, Sequence[str | Case]],
    names: Sequence[str],
    stratify: Rule | None,
) -> list[str]:
    """The names in random order; with strata so that any run of it holds each in its share."""
    rng = np.random.default_rng(key)
    order: list[str] = rng.permutation(names).tolist()
    if stratify is None:
        return order
    strata: dict[Hashable, list[str]] = {}
    for name in order:
        strata.setdefault(_stratum(name, units[name], stratify), []).append(name)
    # Each stratum's members lie evenly on a line from 0 to 1, and are met on the way along it.
    place: dict[str, float] = {}
    for members in strata.values():
        start = rng.random()
        place |= {name: (i + start) / len(members) for i, name in enumerate(members)}
    return sorted(order, key=lambda name: place[name])


def _stratum(name: str, items: Sequence[str | Case], stratify: Rule) -> Hashable:
    found = {_said(stratify, item, "stratify") for item in items}
    if len(found) > 1:
        raise ValueError(
            f"The cases of {name} differ in what to stratify by: {sorted(map(str, found))}. Give "
            "one value for a group."
        )
    return found.pop()


def _said(rule: Rule, item: str | Case, argument: str) -> Hashable:
    if not isinstance(rule, Mapping):
        return rule(item)
    if _id(item) not in rule:
        raise ValueError(f"{argument} says nothing of {_id(item)}. Give a value for every case.")
    return rule[_id(item)]


def _id(item: str | Case) -> str:
    return item.case_id if isinstance(item, Case) else item


def _lacks_mask(item: str | Case) -> bool:
    return isinstance(item, Case) and item.mask is None


def _ids(units: Mapping[str, Sequence[str | Case]], names: Iterable[str]) -> tuple[str, ...]:
    """The ids of whole units, sorted."""
    return tuple(sorted(_id(item) for name in names for item in units[name]))

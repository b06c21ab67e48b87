"""Which case is used for what: by case, never by slice, written down and checked."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kdcore._files import read_json, write_json
from kdcore.data.cases import Case

PARTS = ("labelled", "unlabelled", "validation", "test")


class LeakageError(ValueError):
    """A case was about to be used on the wrong side of a split."""


@dataclass(frozen=True)
class Split:
    """Case ids of the four parts; a case is in one part only.

    Attributes:
        labelled: Training cases whose masks are used.
        unlabelled: Training cases whose masks, if there are any, are hidden.
        validation: For choosing settings and stopping.
        test: For the result, once.
        seed: The seed it was drawn with.
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
        missing = [i for i in self._ids(part) if i not in by_id]
        if missing:
            raise ValueError(
                f"{len(missing)} {part} cases of the split are not in the data, among them "
                f"{missing[0]}. Was the split made for other data?"
            )
        chosen = [by_id[case_id] for case_id in self._ids(part)]
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

    def _ids(self, part: str) -> tuple[str, ...]:
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
) -> Split:
    """Draw validation and test cases, then labelled ones; the rest is unlabelled.

    Args:
        case_ids: Ids or cases; their order does not matter. Cases without a mask can only be
            unlabelled; of an id the split does not know whether it has one.
        num_labelled: Number of training cases whose masks are used.
        num_validation: Number of validation cases.
        num_test: Number of test cases.
        seed: Same seed and ids, same split.
        fold: Of a cross-validation: the test cases of different folds are different ones.
        labelled_seed: Another number draws other labelled cases among the training cases, and
            leaves validation and test as they are: for the seeds of one study.

    Raises:
        ValueError: If there are fewer cases than asked for, or an id comes twice.
    """
    given = list(case_ids)
    ids = [c.case_id if isinstance(c, Case) else c for c in given]
    maskless = [c.case_id for c in given if isinstance(c, Case) and c.mask is None]
    if len(set(ids)) != len(ids):
        raise ValueError("Case ids must be unique; at least one comes twice.")
    if min(num_labelled, num_validation, num_test) < 0:
        raise ValueError("The numbers of cases must not be negative.")
    needed = num_labelled + num_validation + num_test
    ids = sorted(set(ids) - set(maskless))
    if needed > len(ids):
        raise ValueError(
            f"{num_labelled} labelled + {num_validation} validation + {num_test} test = "
            f"{needed} cases are asked for, but there are {len(ids)}"
            + (f" with a mask, and {len(maskless)} without." if maskless else ".")
        )
    if not 0 <= fold * num_test <= len(ids) - num_test:
        raise ValueError(
            f"fold must be ≥ 0, and {len(ids)} cases hold only {len(ids) // max(1, num_test)} "
            f"folds of {num_test} test cases. Received: fold={fold}."
        )
    order = np.random.default_rng([seed, 0]).permutation(ids).tolist()
    order = order[fold * num_test :] + order[: fold * num_test]
    held_out = num_validation + num_test
    training = order[held_out:]
    if labelled_seed:
        training = np.random.default_rng([labelled_seed, 1]).permutation(sorted(training)).tolist()
    return Split(
        labelled=_sorted(training[:num_labelled]),
        unlabelled=_sorted([*training[num_labelled:], *maskless]),
        validation=_sorted(order[num_test:held_out]),
        test=_sorted(order[:num_test]),
        seed=labelled_seed or seed,
    )


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids))

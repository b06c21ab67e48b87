"""What is corrupted: how it is made, which files of it, and what a reader makes of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from conftest import make_case, write_msd, write_nifti
from torture import mutations as m
from torture.common import COARSE, coarse, fresh_network, small_experiment

import kdcore
from kdcore._files import digest
from kdcore.batches import Batches
from kdcore.evaluation import read_results, tables, write_results
from kdcore.evaluation.folder import load_network
from kdcore.study import __main__ as study
from kdcore.study.experiment import Run, train
from kdcore.study.results import summarize

JSON = (*m.BYTES, m.edit)
NPY = (*m.BYTES, m.claim, m.other_array)
SPLIT = kdcore.Split(("case_000",), (), (), ("case_001",))


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        name: For the table.
        share: Of all mutated inputs.
        mutations: For each file, what may happen to it.
        read: What a user does with it; gives something to compare.
        or_named: An error may name such a file instead.
    """

    name: str
    share: int
    mutations: Mapping[Path, Sequence[m.Mutation]]
    read: Callable[[], Any]
    or_named: str = ""


def nifti(folder: Path, packed: bool) -> Target:
    ending, first, second = ".nii.gz" if packed else ".nii", make_case(0), make_case(1, (9, 24, 20))
    files = {}
    for case in (first, second):
        for name, array in (("image", case.image[..., 0]), ("mask", case.mask)):
            path = folder / f"{case.case_id}_{name}{ending}"
            files[case.case_id, name] = write_nifti(path, array)
    image, mask = files["case_000", "image"], files["case_000", "mask"]
    swaps = [m.swap(path) for path in files.values()]
    if packed:
        ways = [*m.BYTES, *swaps, m.in_gzip(m.header), m.in_gzip(m.header_flip), m.endless]
        ways += [m.in_gzip(m.cut), m.in_gzip(m.header)]
    else:  # nothing in the file contradicts another voxel
        ways = [m.cut, m.behead, m.foreign, m.header, m.header, m.header_flip, *swaps]
    others = {
        image: [way for way in ways if way is not swaps[0]],
        mask: [way for way in ways if way is not swaps[1]],
    }

    def read() -> str:
        case = kdcore.read_case(image, mask)
        spacing = np.round(case.spacing_mm, 2)
        return digest(case.image, case.mask, spacing, np.round(case.affine, 2) + 0.0)

    return Target(f"NIfTI, {ending}", 90 if packed else 60, others, read)


def decathlon(folder: Path) -> Target:
    """`dataset.json`; its edits are given, since many another one is a right description."""
    write_msd(folder, 3)
    for index in (1, 2):  # of other shapes, so that no two can be mistaken for each other
        case = make_case(index, (8 + index, 26, 20))
        write_nifti(folder / "imagesTr" / f"case_00{index}.nii.gz", case.image[..., 0])
        write_nifti(folder / "labelsTr" / f"case_00{index}.nii.gz", case.mask)

    def entry(number: int, **changes: Any) -> m.Mutation:
        def change(tree: Any) -> None:
            tree["training"][number] |= changes

        return m.changed(change)

    other = "./labelsTr/case_002.nii.gz"
    ways = [m.flip, m.flips, m.cut, m.behead, m.hole, m.foreign]
    ways += [entry(1, label=other), entry(0, image=other), entry(0, image="../../etc/passwd")]
    names = (None, 3, [], "a\0b", "x" * 5000, "/etc/passwd", "")
    ways += [entry(1, image=value) for value in names]
    ways += [
        m.changed(lambda tree, k=k, v=v: tree.update({k: v}))
        for k in ("training", "test", "labels", "modality")
        for v in (5, "x", True, [[]], {"a": 1e999}, {"0": None})
    ]

    def read() -> str:
        cases = kdcore.read_msd(folder)
        return digest(*[part for case in cases for part in (case.case_id, case.image, case.mask)])

    return Target("dataset.json", 60, {folder / "dataset.json": ways}, read, ".nii.gz")


def soft_targets(folder: Path) -> Target:
    cases = [make_case(0), make_case(1, (9, 26, 20))]

    def teacher(case: kdcore.Case) -> np.ndarray:
        p = case.image / np.ptp(case.image) / 3 + 0.1
        return np.concatenate([1 - np.abs(p), np.abs(p)], axis=-1).clip(0, 1)

    teacher.digest = "v1"
    kdcore.SoftTargets.write(teacher, cases, folder)
    ways: dict[Path, Sequence[m.Mutation]] = {folder / "manifest.json": JSON}
    for case, other in (("case_000", "case_001"), ("case_001", "case_000")):
        ways[folder / f"{case}.json"] = [*JSON, m.swap(folder / f"{other}.json")]
        ways[folder / f"{case}.npy"] = [*NPY, m.swap(folder / f"{other}.npy")]

    def read() -> str:
        soft = kdcore.SoftTargets.open(folder, cases=cases)
        batches = Batches(cases, (16, 16), soft_targets=soft, shuffle=False)
        return digest(*[np.asarray(soft[c.case_id]) for c in cases], batches[1][1]["soft_targets"])

    return Target("soft targets", 90, ways, read)


def finished_run(folder: Path) -> Target:
    def opened() -> Run:
        return Run(folder, "baseline", 0, {"steps": 3}, SPLIT)

    run, other = opened(), folder.parent / "another.keras"
    batches = Batches([make_case(0)], (16, 16), 2, num_batches=1)
    kdcore.fit(fresh_network(), batches, 1, run.folder, verbose=0)
    run.finish({"case_001": {"1": {"dice": 0.8125}}})
    fresh_network(filters=3).save(other)
    retrained = folder.parent / "retrained.keras"
    network = fresh_network()
    network.set_weights([w + 0.1 for w in network.get_weights()])
    network.save(retrained)
    place = run.folder
    ways = {
        place / "config.json": JSON,
        place / "result.json": JSON,
        place / "finished.json": JSON,
        place / "network.keras": [*m.BYTES, m.swap(other), m.swap(retrained)],
    }

    def read() -> Any:
        result, image = opened().result, np.ones((1, 16, 16, 1), np.float32)
        answer = opened().load().predict_on_batch(image)
        return result["per_case"], result["history"], result["seed"], digest(np.asarray(answer))

    return Target("run folder", 60, ways, read)


def unfinished_run(folder: Path) -> Target:
    def go_on() -> Any:
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                if epoch == 1:
                    raise KeyboardInterrupt

        model, batches = fresh_network(), Batches([make_case(0)], (16, 16), 2, num_batches=1)
        with suppress(KeyboardInterrupt):
            kdcore.fit(model, batches, 2, folder, verbose=0, callbacks=[Stop()])
        return model

    go_on()
    ways = {
        folder / "state.json": JSON,
        folder / "settings.json": JSON,
        folder / "epoch-0001.weights.h5": m.BYTES,
    }

    def read() -> str:
        return digest(*go_on().get_weights())

    return Target("weights and state of a run", 40, ways, read)


def weights(folder: Path) -> Target:
    folder.mkdir()
    path = folder / "student.keras"
    fresh_network().save(path)

    def read() -> str:
        network = load_network(path)
        return digest(np.asarray(network.predict_on_batch(np.ones((1, 16, 16, 1), np.float32))))

    return Target("network files", 40, {path: m.BYTES}, read)


def records_and_results(folder: Path) -> list[Target]:
    """Of a whole small study."""
    with coarse(folder / "cache"):
        experiment = small_experiment(folder)
        jobs = [study.Job(experiment, arm, folder / "records") for arm in experiment.config.arms]
        study.work(jobs)
        path = folder / "results.csv.gz"
        runs = [train(experiment, job.arm) for job in jobs]
        write_results(*summarize(experiment, runs), path)
    record, other = jobs[0].path, jobs[1].path

    def read_study() -> list[str]:
        table, about = read_results(path)
        told = [tables.arm_table(table, about["arms"], {"1": "a", "2": "b"})]
        return [*told, tables.comparison_table(about["comparisons"])]

    def read_record() -> Any:
        kept = jobs[0].record()
        return kept["per_case"], kept["split"], kept["validation_dice"]

    return [
        Target("results tables", 40, {path: m.BYTES}, read_study),
        Target("results JSON", 40, {folder / "results.json": JSON}, read_study),
        Target("study records", 40, {record: [*JSON, m.swap(other)]}, read_record),
    ]


def cache(folder: Path) -> Target:
    def read() -> str:
        cases = kdcore.simulate_cases(2, simulation=COARSE, folder=folder)
        return digest(*[part for case in cases for part in (case.image, case.mask)])

    read()
    first, second = sorted(path.parent for path in folder.rglob("digests.json"))
    ways: dict[Path, Sequence[m.Mutation]] = {first / "digests.json": JSON}
    for name in ("image", "mask"):
        ways[first / f"{name}.npy"] = [*m.BYTES, m.claim, m.swap(second / f"{name}.npy")]
    return Target("cache of simulated scans", 20, ways, read)


def nnunet(folder: Path) -> Target:
    folder.mkdir()
    case, path = make_case(0), folder / "case_000.npz"
    p = np.random.default_rng(0).dirichlet([1, 1, 1], case.image.shape[:3])
    np.savez_compressed(path, probabilities=p.astype(np.float32).transpose(3, 2, 1, 0))

    def read() -> str:
        return digest(kdcore.NNUNetProbabilities(folder)(case))

    return Target("nnU-Net's probabilities", 20, {path: m.BYTES}, read)


def all_targets(folder: Path) -> list[Target]:
    keras.utils.set_random_seed(0)
    return [
        nifti(folder / "packed", packed=True),
        nifti(folder / "plain", packed=False),
        decathlon(folder / "Task"),
        soft_targets(folder / "soft"),
        finished_run(folder / "finished"),
        unfinished_run(folder / "unfinished"),
        weights(folder / "networks"),
        *records_and_results(folder / "study"),
        cache(folder / "cache"),
        nnunet(folder / "nnunet"),
    ]

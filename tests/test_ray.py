"""Ray's workers give the files of one process, also when workers, machines or the head die.

`nox -s tests-ray`; where Ray is not installed they are skipped. One thread a process there: sums
over several threads differ in the last digit.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_case, write_msd
from torture.common import differences, outcome

import kdcore
from kdcore import _cluster
from kdcore.study import __main__ as study
from kdcore.study import queue
from kdcore.study.experiment import Experiment
from kdcore.study.settings import STUDIES

ray = pytest.importorskip("ray", reason="Ray is not installed: its tests were skipped")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

pytestmark = pytest.mark.job
NODE = "KDCORE_TEST_MACHINE"
PATIENCE = 300.0


class Teacher:
    """Answers by the image alone, and marks in a folder who asked on which machine."""

    digest = "v1"

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, case):
        with open(self.folder / f"{case.case_id}.asked", "a") as file:
            file.write(os.environ.get(NODE, "first") + "\n")
        self.meet(case.case_id)
        p = (case.image - case.image.min()) / np.ptp(case.image)
        return np.concatenate([1 - p, p], axis=-1)

    def meet(self, case_id):
        pass

    def asked(self):
        return {p.stem: p.read_text().split() for p in sorted(self.folder.glob("*.asked"))}


class Dies(Teacher):
    """Its process is killed at one case, so many times."""

    def __init__(self, folder, times):
        super().__init__(folder)
        self.times = times

    def meet(self, case_id):
        if case_id == "case_002" and len(self.asked()["case_002"]) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)


class Waits(Teacher):
    """The second machine hangs at its first case; before the last one the third must have come."""

    def meet(self, case_id):
        machine = os.environ.get(NODE, "first")
        if machine == "second":
            (self.folder / "second-is-busy").touch()
            time.sleep(PATIENCE)
        if machine == "third":
            (self.folder / "third-came").touch()
        if machine == "first":
            until((self.folder / "second-is-busy").exists)
            if case_id == "case_004":
                until((self.folder / "third-came").exists)


class Hangs(Teacher):
    def meet(self, case_id):
        if case_id == "case_003":
            time.sleep(PATIENCE)


class Wrong(Teacher):
    def __call__(self, case):
        return np.full((*case.image.shape[:3], 2), 7.0)


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def cases():
    return [make_case(index) for index in range(6)]


@pytest.fixture(scope="module")
def expected(cases, tmp_path_factory):
    """By one process."""
    folder = tmp_path_factory.mktemp("one")
    kdcore.SoftTargets.write(Teacher(tmp_path_factory.mktemp("asked")), cases, folder)
    return files(folder)


@pytest.fixture(scope="module")
def cluster():
    """Two machines of a core each, as far as one can stand for two, and a connection."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1, env_vars={NODE: "second"})
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_two_workers_write_what_one_process_writes(cluster, cases, tmp_path):
    keras.utils.set_random_seed(0)
    networks = [kdcore.unet((26, 20, 1), 3, filters=f, depth=1) for f in (2, 3)]
    kdcore.SoftTargets.write(networks, cases, tmp_path / "one")
    kdcore.SoftTargets.write(networks, iter(cases), tmp_path / "two", ray=cluster.address)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_killed_worker_loses_nothing(cluster, cases, expected, tmp_path):
    teacher = Dies(tmp_path, times=1)
    kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft", ray=cluster.address)
    assert files(tmp_path / "soft") == expected
    counts = {name: len(asked) for name, asked in teacher.asked().items()}
    assert counts == {case.case_id: 1 for case in cases} | {"case_002": 2}


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; `grow(size)` makes it larger."""
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", *options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if os.name == "nt" or os.geteuid() != 0 or not mount(f"size={size}"):
        pytest.skip("needs the right to mount a small file system")
    try:
        yield lambda larger: mount(f"remount,size={larger}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_then_room_again(cluster, cases, expected, tmp_path):
    teacher, place = Teacher(tmp_path), tmp_path / "disk"
    with small_disk(place, sum(map(len, expected.values())) // 2) as grow:
        with pytest.raises(OSError, match="was not written"):
            kdcore.SoftTargets.write(teacher, cases, place / "soft", ray=cluster.address)
        kept = {path.stem for path in (place / "soft").glob("*.json")} & set(teacher.asked())
        assert 0 < len(kept) < len(cases)
        assert grow("10m")
        kdcore.SoftTargets.write(teacher, cases, place / "soft", ray=cluster.address)
        assert files(place / "soft") == expected
    asked = {name: len(machines) for name, machines in teacher.asked().items()}
    assert all(asked[name] == 1 for name in kept), "what was written is not done again"


def test_a_case_that_kills_every_worker_is_named(cluster, cases, expected, tmp_path):
    teacher = Dies(tmp_path, times=100)
    with pytest.raises(ConnectionError, match="3 workers died at case_002") as error:
        kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft", ray=cluster.address)
    assert "\n" not in str(error.value)
    assert len(teacher.asked()["case_002"]) == _cluster.LIVES
    kdcore.SoftTargets.write(Teacher(tmp_path), cases, tmp_path / "soft")
    assert files(tmp_path / "soft") == expected


def test_what_the_teacher_does_wrong_is_told_as_in_one_process(cluster, cases, tmp_path):
    with pytest.raises(ValueError, match=r"case_00\d: the teacher's values run from 7 to 7"):
        kdcore.SoftTargets.write(Wrong(tmp_path), cases, tmp_path / "soft", ray=cluster.address)


def test_more_than_any_machine_has_is_told(cluster, cases, tmp_path):
    with pytest.raises(ConnectionError, match="No machine of the cluster has 1 CPUs and 1 GPUs"):
        kdcore.SoftTargets.write(
            Teacher(tmp_path), cases, tmp_path / "soft", ray=cluster.address, num_gpus=1
        )


def test_other_versions_on_a_worker_are_told_before_work_starts(
    cluster, cases, tmp_path, monkeypatch
):
    monkeypatch.setattr(_cluster, "alike", lambda: {"python": "3.9.0"})
    teacher = Teacher(tmp_path)
    with pytest.raises(ConnectionError, match=r"python 3\.1.*\(here 3\.9\.0\)"):
        kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft", ray=cluster.address)
    assert not teacher.asked() and not (tmp_path / "soft").exists()


def smoke(folder, data_dir, labelled=None):
    experiment = Experiment(
        STUDIES["main"]["hippocampus"]["smoke"], "s", folder / "runs", data_dir
    ).with_seed(0, labelled)
    return [queue.Job(experiment, "baseline", folder / "records")]


def test_other_data_on_a_worker_are_told_before_work_starts(cluster, tmp_path):
    data = write_msd(tmp_path / "data")
    jobs = smoke(tmp_path, data)
    shutil.rmtree(data)
    write_msd(data, 9)  # what a worker will find
    with pytest.raises(ConnectionError, match="has other data than this machine"):
        queue.work_together(ray, jobs)
    assert not list((tmp_path / "records").iterdir())


def test_a_worker_without_the_data_is_told(cluster, tmp_path):
    data = write_msd(tmp_path / "data")
    jobs = smoke(tmp_path, data)
    shutil.rmtree(data)
    with pytest.raises(FileNotFoundError, match="dataset.json"):
        queue.work_together(ray, jobs)


def test_a_machine_that_dies_and_one_that_comes(cluster, cases, expected, tmp_path):
    teacher, soft = Waits(tmp_path), tmp_path / "soft"

    def write():
        kdcore.SoftTargets.write(teacher, cases, soft, ray=cluster.address)

    thread = threading.Thread(target=write)
    thread.start()
    until((tmp_path / "second-is-busy").exists)
    cluster.remove_node(cluster.second, allow_graceful=False)
    cluster.add_node(num_cpus=1, env_vars={NODE: "third"})
    thread.join()
    assert files(tmp_path / "soft") == expected
    asked = teacher.asked()
    lost = [name for name, machines in asked.items() if "second" in machines]
    assert len(lost) == 1 and len(asked[lost[0]]) == 2  # its work was done by another
    assert all(len(machines) == 1 for name, machines in asked.items() if name not in lost)
    assert any("third" in machines for machines in asked.values())


def workers_of(parent, name):
    """Processes of Ray, started by this one, that do the named task."""
    parents, found = {}, []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            if (stat.parent / "cmdline").read_text().startswith(f"ray::{name}"):
                found.append(int(stat.parent.name))
        except OSError:
            continue

    def descends(pid):
        return pid == parent or (pid in parents and descends(parents[pid]))

    return [pid for pid in found if descends(pid)]


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked for in /proc")
def test_a_study_of_two_workers_one_of_which_is_killed(tmp_path, capfd):
    if ray.is_initialized():
        ray.shutdown()
    options = ["--data", "hippocampus", "--tier", "smoke", "--seeds", "1"]
    options += ["--data-dir", str(write_msd(tmp_path / "data"))]
    killed = []

    def kill():
        until(lambda: list((tmp_path / "two").rglob("config.json")))
        until(lambda: killed.extend(workers_of(os.getpid(), "_run_there")) or killed)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert study.main([*options, "--runs", str(tmp_path / "two"), "--workers", "2"]) == 0
    thread.join()
    told = capfd.readouterr().out
    assert told.count("validation Dice") == 3 and killed
    assert study.main([*options, "--runs", str(tmp_path / "one")]) == 0
    records = "hippocampus-smoke/records"
    one, two = outcome(tmp_path / "one" / records), outcome(tmp_path / "two" / records)
    assert len(one) == 3 and not differences(one, two)


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_without_its_head_it_goes_on_from_what_is_on_disk(cases, expected, tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ray, test_ray, kdcore
from pathlib import Path
ray.cloudpickle.register_pickle_by_value(test_ray)
cases = [test_ray.make_case(index) for index in range(6)]
folder = Path({str(tmp_path)!r})
kdcore.SoftTargets.write(test_ray.Hangs(folder), cases, folder / "soft", ray={head.address!r})
"""
    impatient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "2"}
    child = subprocess.Popen([sys.executable, "-c", program], env=os.environ | impatient)
    try:
        until(lambda: (tmp_path / "case_003.asked").exists() or child.poll() is not None)
        head.shutdown()
        assert child.wait(PATIENCE) != 0
    finally:
        child.kill()
        head.shutdown()
    kept = {p.name: p.stat().st_ino for p in (tmp_path / "soft").iterdir() if p.suffix}
    assert "case_002.json" in kept and "case_003.json" not in kept
    kdcore.SoftTargets.write(Teacher(tmp_path), cases, tmp_path / "soft")
    assert {name: (tmp_path / "soft" / name).stat().st_ino for name in kept} == kept
    for path in (tmp_path / "soft").glob(".part-*"):
        shutil.rmtree(path)
    assert files(tmp_path / "soft") == expected


def test_no_cluster_at_the_address(cases, tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    for address in ("127.0.0.1:9", "nonsense"):
        with pytest.raises(ConnectionError, match="No Ray cluster can be used at") as error:
            kdcore.SoftTargets.write(Teacher(tmp_path), cases, tmp_path, ray=address)
        assert "\n" not in str(error.value)

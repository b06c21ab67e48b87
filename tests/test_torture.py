"""The torture programs work, and notice what they are there to notice."""

import json
import random
import subprocess
import sys
from pathlib import Path

import nibabel
import pytest
from torture import corruption, kills, mutations, targets
from torture.common import Count, differences

PROGRAM = Path(__file__).parent / "torture" / "run.py"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The short form, as a user starts it."""
    out = tmp_path_factory.mktemp("torture") / "counts.json"
    command = [sys.executable, str(PROGRAM), "--short", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.job
def test_everything_held(told):
    counts = {row[0]: row[1:] for row in told["rows"]}
    assert told["columns"] == ["what was done", "times", "as it must be", "measured"]
    assert all(tried == held for tried, held, _ in counts.values())
    killed = sum(int(tried) for what, (tried, *_) in counts.items() if what.startswith("kill -9"))
    assert killed == 8 and int(counts["two processes at once"][0]) == 3
    assert {"versions", "hardware", "commit", "seed", "seconds"} <= set(told)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv(mutations.TRAP, str(tmp_path / "trap"))
    return targets.nifti(tmp_path, packed=True)


def tortured(target, times):
    count, rng, right = Count(""), random.Random(0), target.read()
    for number in range(times):
        corruption._one_input(target, right, number, rng, count)
    return count


def test_every_mutation_of_a_scan_is_refused_or_harmless(packed):
    assert tortured(packed, 40).failures == []


def test_a_reader_without_checks_is_found_out(packed, monkeypatch):
    """nibabel stops at the last voxel, and believes the header."""
    monkeypatch.setattr("kdcore.data.nifti._load", nibabel.load)
    assert any("a wrong answer" in problem for problem in tortured(packed, 80).failures)


def test_an_error_without_a_name_is_found_out(packed, monkeypatch):
    monkeypatch.setattr(
        "kdcore.data.nifti.read_nifti", lambda path: (_ for _ in ()).throw(KeyError())
    )
    with pytest.raises(KeyError):
        packed.read()
    count = Count("")
    corruption._one_input(packed, "", 0, random.Random(0), count)
    assert "KeyError" in count.failures[0]


def test_half_files_and_repeated_work_are_found_out(tmp_path):
    for name in ("result.json", "other.json"):
        (tmp_path / name).write_text("{}")
    assert kills.half_files(tmp_path) == ""
    before = kills.finished(tmp_path)
    assert list(before) == ["result.json"] and kills.done_again(before, tmp_path) == ""
    (tmp_path / ".part-x").mkdir()
    (tmp_path / ".part-x" / "result.json").write_text("{}")
    assert kills.finished(tmp_path) == before  # a killed process's leftovers are no results
    (tmp_path / "other.json").write_text('{"a')
    assert "other.json" in kills.half_files(tmp_path)
    (tmp_path / "new").write_text("{}")
    (tmp_path / "new").replace(tmp_path / "result.json")
    assert "done again: ['result.json']" in kills.done_again(before, tmp_path)
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 2}) == "b c"

"""Files that are whole or not there, and notice when they were changed."""

import json
import os

import numpy as np
import pytest
from filelock import FileLock, Timeout

from kdcore._files import lock, open_array, read_json, replacing, write_json


def test_what_a_killed_process_leaves_is_not_found_by_its_ending(tmp_path):
    """`kill -9` runs no `finally`: the temporary file stays as it is."""
    block = replacing(tmp_path / "a.json")
    block.__enter__().write_text("half")
    assert not list(tmp_path.glob("*.json"))
    assert [path.name[:6] for path in tmp_path.iterdir()] == [".part-"]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="written") as caught, replacing(tmp_path / "a.npy"):
        raise OSError("100 requested and 3 written")
    assert any("a.npy was not written" in note for note in caught.value.__notes__)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["value", "name", "more", "less"])
def test_a_sealed_file_that_was_changed_is_refused(tmp_path, change):
    path, content = tmp_path / "r.json", {"dice": 0.8125, "cases": {"a": [1, None, "x"]}}
    write_json(path, content, sealed=True)
    assert read_json(path) == content
    changed = json.loads(path.read_text())
    if change == "value":
        changed["cases"]["a"][0] = 2
    if change == "name":
        changed["cases"] = {"b": changed["cases"]["a"]}
    if change == "more":
        changed["extra"] = 1
    if change == "less":
        del changed["cases"]
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="r.json is not as it was written"):
        read_json(path)


def test_a_seal_survives_any_number(tmp_path, rng):
    numbers = [*rng.normal(size=50).tolist(), 1e-320, 1e300, -0.0, np.nan, np.inf, 2**70]
    write_json(tmp_path / "a.json", {"x": numbers, "y": np.float32(0.1), 3: "é"}, sealed=True)
    assert read_json(tmp_path / "a.json")["x"][-2] is None


def test_json_without_end(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("claim", ["shape", "pickle", "archive", "empty"])
def test_arrays_that_are_none(tmp_path, claim):
    path = tmp_path / "a.npy"
    if claim == "shape":
        np.save(path, np.zeros((3, 3), np.float16))
        path.write_bytes(path.read_bytes().replace(b"(3, 3), }    ", b"(3, 30000), }"))
    if claim == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    if claim == "archive":
        with open(path, "wb") as file:
            np.savez(file, a=np.zeros(3))
    if claim == "empty":
        path.touch()
    with pytest.raises(ValueError, match="a.npy is no"):
        open_array(path)


def test_a_lock_can_be_entered_again_but_not_by_another(tmp_path):
    held, other = lock(tmp_path / "a"), FileLock(tmp_path / "a.lock", timeout=0)
    with held, held, pytest.raises(Timeout), other:
        pass
    with other:
        pass


def test_a_read_only_folder_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)  # chmod does not stop root
    with lock(tmp_path / "a"):
        assert not list(tmp_path.iterdir())


def test_a_file_without_its_digest_is_refused_where_one_belongs(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    with pytest.raises(ValueError, match="a.json is not as it was written: it lacks its digest"):
        read_json(path, sealed=True)


def test_nesting_without_end_is_named(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"kdcore_sha256": "x", "a": ' + "[" * 700 + "]" * 700 + "}")
    with pytest.raises(ValueError, match="deep.json is not"):
        read_json(path)

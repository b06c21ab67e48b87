"""No file brings code along, nothing leaves its folder, nothing is told about who ran it.

Damaged input of every kind is in `torture`.
"""

import ast
import getpass
import http.server
import json
import pickle
import re
import socket
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import kdcore
from kdcore import training
from kdcore._files import open_array
from kdcore.data import download as datasets
from kdcore.evaluation import write_results
from kdcore.evaluation.folder import load_network
from kdcore.study.experiment import Run
from kdcore.study.results import collect, record
from kdcore.study.settings import TASKS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "kdcore").rglob("*.py"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SPLIT = kdcore.Split(("a",), (), (), ("x",))


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def calls(name):
    """Every call `*.name(...)` in the library."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == name:
                yield path.name, {k.arg: getattr(k.value, "value", None) for k in node.keywords}


# --- files ---------------------------------------------------------------------------------


def network_with_code(path):
    inputs = keras.Input((16, 16, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(path)
    return path


def test_a_layer_of_ones_own_is_named_in_a_line(tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return x * 2

    inputs = keras.Input((16, 16, 1))
    keras.Model(inputs, Doubled()(inputs)).save(tmp_path / "x.keras")
    assert load_network(tmp_path / "x.keras").layers  # where it is known
    keras.saving.get_custom_objects().pop("mine>Doubled")
    with pytest.raises(ValueError, match="does not know its class Doubled. Import") as told:
        load_network(tmp_path / "x.keras")
    assert len(str(told.value)) < 400


def test_a_network_file_cannot_bring_code(tmp_path):
    with pytest.raises(ValueError, match=r"x.keras cannot be loaded.*[Ll]ambda"):
        load_network(network_with_code(tmp_path / "x.keras"))
    run = Run(tmp_path / "runs", "student", 0, {}, SPLIT)
    training.keep(kdcore.unet((16, 16, 1), 3, 2, 1), run.folder)
    network_with_code(run.folder / "network.keras")
    with pytest.raises(training.TrainingError, match=r"network.keras cannot be loaded.*[Ll]ambda"):
        run.load()


@pytest.mark.job
def test_every_network_is_loaded_in_safe_mode():
    found = list(calls("load_model"))
    assert len(found) >= 2
    assert all(options.get("safe_mode") is True for _, options in found), found


@pytest.mark.job
def test_nothing_is_unpickled(tmp_path):
    found = [*calls("load"), *calls("save")]
    arrays = [options for name, options in found if "allow_pickle" in options]
    assert len(arrays) >= 4 and all(options["allow_pickle"] is False for options in arrays)
    for path in SOURCES:
        text = path.read_text("utf-8")
        assert not re.search(r"\bpickle\b(?!=False)|joblib|\bshelve|\beval\(|\bexec\(", text), path
        assert text.count("np.load(") == len(re.findall(r"np.load\([^)]*allow_pickle=False", text))
    trap, fired = tmp_path / "trap.npy", tmp_path / "fired"
    np.save(trap, np.array([Trap(fired)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"trap.npy is no readable .npy file"):
        open_array(trap)
    trap.write_bytes(pickle.dumps(Trap(fired)))
    with pytest.raises(ValueError, match=r"trap.npy is no readable .npy file"):
        open_array(trap)
    np.savez(tmp_path / "case.npz", probabilities=np.array([Trap(fired)], dtype=object))
    case = kdcore.Case("case", np.zeros((2, 2, 2, 1)), None, (1, 1, 1))
    with pytest.raises(ValueError, match="case.npz is no probability map"):
        kdcore.NNUNetProbabilities(tmp_path)(case)
    assert not fired.exists()
    pickle.loads(pickle.dumps(Trap(fired)))  # the trap works
    assert fired.exists()


# --- the network ---------------------------------------------------------------------------


@pytest.fixture
def redirecting():
    """A server that sends everyone elsewhere."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere.tar")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.tar", asked
    server.shutdown()


def test_downloads_need_https_and_a_digest(tmp_path):
    with pytest.raises(ValueError, match=r"http://example.org/x.tar is not fetched"):
        datasets.download("http://example.org/x.tar", "md5:0", tmp_path, what="x")
    with pytest.raises(ValueError, match="and a digest"):
        datasets.download("https://example.org/x.tar", "", tmp_path, what="x")
    assert re.fullmatch("[0-9a-f]{32}", datasets.HIPPOCAMPUS_MD5)
    assert datasets.HIPPOCAMPUS_URL.startswith("https://") and datasets.SECURE == "https://"
    assert datasets.ACDC_URL.startswith("https://") and datasets.ACDC_COMMIT in datasets.ACDC_URL


def test_redirects_are_not_followed(redirecting, tmp_path, monkeypatch):
    url, asked = redirecting
    monkeypatch.setattr(datasets, "SECURE", "http://127.0.0.1:")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="hash of downloaded file"):
        datasets.download(url, "md5:" + "0" * 32, tmp_path, what="x")
    assert set(asked) == {"/x.tar"} and not list(tmp_path.iterdir())


def test_no_address_in_the_library_is_insecure():
    for path in SOURCES:
        assert "http://" not in path.read_text("utf-8"), path


# --- what is told --------------------------------------------------------------------------


def test_results_tell_nothing_of_who_ran_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret-of-the-environment")
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "data-of-mine"))
    run = Run(tmp_path / "runs-of-mine", "student", 0, {}, SPLIT)
    entry = {"dice": 0.5, "surface_dice_1mm": 0.5, "hd95_mm": 1.0}
    training.keep(kdcore.unet((16, 16, 1), 3, 2, 1), run.folder)
    run.finish({"x": {"1": entry, "2": entry}})
    task = TASKS["hippocampus"]
    write_results(*collect("s", [record(run, task)], task, {}), tmp_path / "results.csv")
    path = tmp_path / "results.json"
    told = path.read_text() + (run.folder / "result.json").read_text()
    told += (tmp_path / "results.csv").read_text()
    hidden = [str(tmp_path), "of-mine", "secret-of", str(Path.home()), str(ROOT)]
    hidden += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4]
    assert not [word for word in hidden if word in told]
    assert json.loads(path.read_text())["hardware"]["cores"] > 0  # what is told


# --- the workflow --------------------------------------------------------------------------


def test_ci_uses_pinned_actions_and_a_token_that_reads():
    assert WORKFLOWS
    for path in WORKFLOWS:
        text = path.read_text("utf-8")
        used = re.findall(r"uses:\s*(\S+)", text)
        assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used), used
        assert re.search(r"^permissions:\n  contents: read\n", text, re.MULTILINE), path
        assert text.count("persist-credentials: false") == text.count("actions/checkout@")
        assert "pull_request_target" not in text and "secrets." not in text
        assert "github.event" not in text  # a title of a pull request is no command


def test_what_may_write_runs_nothing_that_was_installed():
    for path in WORKFLOWS:
        steps = re.split(r"^      - ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
        for step in steps:
            if "github.token" in step:
                assert re.findall(r"run: (\w+ \w+)", step) == ["git push"], step


def test_a_way_to_report_is_given():
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "Report a\nvulnerability" in text and "not promised" in text

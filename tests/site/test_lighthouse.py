"""Lighthouse gives full marks for accessibility and best practices."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import FLAGS

LIGHTHOUSE = "lighthouse@13.5.0"


@pytest.mark.parametrize("path", ["", "learn/temperature/", "tutorial/04_student/"])
def test_full_marks(path, site_folder, site_url, chromium, tmp_path):
    if shutil.which("npx") is None:
        pytest.skip("needs Node's npx")
    out = tmp_path / "report.json"
    command = ["npx", "--yes", LIGHTHOUSE, site_url + path, "--quiet", "--output=json"]
    command += [f"--output-path={out}", "--only-categories=accessibility,best-practices"]
    command += [f"--chrome-flags=--headless=new {' '.join(FLAGS)}"]
    environment = {**os.environ, "CHROME_PATH": chromium}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert out.exists(), done.stderr[-2000:]
    report = json.loads(out.read_text())
    failed = {
        name: [a["id"] for a in category["auditRefs"] if report["audits"][a["id"]]["score"] == 0]
        for name, category in report["categories"].items()
    }
    scores = {name: category["score"] for name, category in report["categories"].items()}
    assert scores == {"accessibility": 1, "best-practices": 1}, failed

"""The live demo's networks in Chromium: milliseconds a slice, as the page shows them."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from common import row

ASSETS = Path(__file__).parents[2] / "assets"
NAMES = ("chromium", "chromium-browser", "google-chrome")
SEGMENT = """async ([repeats, passes]) => {
  const worker = new Worker("/unet-worker.mjs", {type: "module"});
  const ask = (action, request) => new Promise((resolve, reject) => {
    worker.onmessage = ({data}) =>
      data.error ? reject(new Error(data.error)) : resolve(data.answer);
    worker.onerror = () => reject(new Error("The worker did not start."));
    worker.postMessage({id: 0, action, ...request});
  });
  await ask("openSample", {number: 0});
  const rounds = [];
  for (let i = 0; i <= repeats; i++) {
    const round = {};
    for (const name of ["student", "teacher"]) {
      round[name] = [];
      for (let j = 0; j < passes; j++) {
        round[name].push((await ask("segment", {name, plane: 0})).milliseconds);
      }
    }
    rounds.push(round);
  }
  return rounds.slice(1);
}"""


def measure(repeats: int) -> list[dict[str, Any]]:
    """Each round is the median of 30 slices with the student, and of 30 with the teacher."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = _chromium() or playwright.chromium.executable_path
        if not Path(path).is_file():
            raise SystemExit(
                "The part browser needs Chromium: install it, set CHROMIUM, or run "
                "`playwright install chromium`; or name the other parts with --parts."
            )
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        times = milliseconds(browser, repeats, 30)
        browser.close()
    student, teacher = (np.median(times[name], axis=1) for name in ("student", "teacher"))
    return [
        row("browser_student", "ms a slice", student),
        row("browser_teacher", "ms a slice", teacher),
        row("browser_student_over_teacher_throughput", "ratio", teacher / student),
    ]


def milliseconds(browser: Any, repeats: int, passes: int) -> dict[str, np.ndarray]:
    """Of each network, shape `(repeats, passes)`, after one round that is not counted."""
    with _served() as url:
        page = browser.new_page()
        page.goto(url)
        rounds = page.evaluate(SEGMENT, [repeats, passes])
        page.close()
    return {name: np.array([r[name] for r in rounds]) for name in ("student", "teacher")}


def _chromium() -> str | None:
    """The one installed, if any."""
    return next(filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]), None)


@contextmanager
def _served() -> Iterator[str]:
    """The address of the site's assets, for as long as the context lasts."""
    handler = partial(_Quiet, directory=str(ASSETS))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

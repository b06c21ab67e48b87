"""In Chromium: how long the live demo takes for a slice, how many frames the playground draws."""

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

# The playground as its page starts it; each change of its progress is a frame that is drawn.
PLAY = """async () => {
  window.document$ = {subscribe(start) { start(); return {unsubscribe() {}}; }};
  document.body.innerHTML = '<div class="kd-playground" data-kd-playground=""></div>';
  for (const name of ["compare", "lab", "playground"]) {
    const sheet = {rel: "stylesheet", href: `/${name}.css`};
    document.head.append(Object.assign(document.createElement("link"), sheet));
  }
  await import("/playground.mjs");
  const found = async (selector) => {
    for (;;) {
      const element = document.querySelector(selector);
      if (element) return element;
      await new Promise((done) => setTimeout(done, 20));
    }
  };
  const progress = await found('[data-out="progress"]:not(:empty)');
  const drawn = [];
  const ended = new Promise((done) => {
    new MutationObserver((_, watch) => {
      drawn.push(performance.now());
      if (progress.textContent !== "Step 400 of 400") return;
      watch.disconnect();
      done();
    }).observe(progress, {childList: true});
  });
  document.querySelector('[data-do="play"]').click();
  await ended;
  return [drawn.length - 1, drawn.at(-1) - drawn[0]];
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
        shown, busy = frames(browser, repeats, 1)
        shown_slowly, _ = frames(browser, repeats, 4)
        browser.close()
    student, teacher = (np.median(times[name], axis=1) for name in ("student", "teacher"))
    return [
        row("browser_student", "ms a slice", student),
        row("browser_teacher", "ms a slice", teacher),
        row("browser_student_over_teacher_throughput", "ratio", teacher / student),
        row("playground", "frames a second", shown),
        row("playground_thread", "ms a frame", busy),
        row("playground_throttled_4x", "frames a second", shown_slowly),
    ]


def milliseconds(browser: Any, repeats: int, passes: int) -> dict[str, np.ndarray]:
    """Of each network, shape `(repeats, passes)`, after one round that is not counted."""
    with _served() as url:
        page = browser.new_page()
        page.goto(url)
        rounds = page.evaluate(SEGMENT, [repeats, passes])
        page.close()
    return {name: np.array([r[name] for r in rounds]) for name in ("student", "teacher")}


def frames(browser: Any, repeats: int, slower: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the playground while it learns: frames a second, and ms of the page's thread for one.

    `slower` is by how much that thread is slowed; the worker that trains is not.
    """
    found = []
    with _served() as url:
        for _ in range(repeats):
            page = browser.new_page()
            page.goto(f"{url}?alpha=0.9")
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            session.send("Emulation.setCPUThrottlingRate", {"rate": slower})
            before = _busy(session)
            count, ms = page.evaluate(PLAY)
            found.append((1000 * count / ms, 1000 * (_busy(session) - before) / count))
            page.close()
    return tuple(np.transpose(found))


def _busy(session: Any) -> float:
    """Seconds of processor time that the page's thread has used."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


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
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None:
        pass

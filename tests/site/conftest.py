"""The built site under a sub-path, as GitHub Pages serves it, and a browser to open it with."""

import gzip
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest

from kdcore._files import lock

ROOT = Path(__file__).parents[2]
SUB_PATH = "/kdcore/"
AXE = "4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-compositing",
    "--disable-software-rasterizer",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Handler(http.server.SimpleHTTPRequestHandler):
    """The files of `folder` under the sub-path, text compressed, and the site's own 404."""

    protocol_version = "HTTP/1.1"
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".webp": "image/webp",
        ".woff2": "font/woff2",
    }
    folder: Path

    def do_GET(self):
        path = self.path.partition("?")[0]
        file = self.folder / path.removeprefix(SUB_PATH)
        if file.is_dir():
            file /= "index.html"
        found = path.startswith(SUB_PATH) and file.is_file()
        self.answer(200 if found else 404, file if found else self.folder / "404.html")

    def answer(self, status, file):
        kind, content = self.guess_type(file), file.read_bytes()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if kind.startswith(("text/", "application/json", "image/svg")):
            content = gzip.compress(content, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):  # a browser that closes a connection
        pass


def pytest_configure(config):
    """One server and one built site for all workers of pytest-xdist, in the process above them."""
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.TemporaryDirectory()
    Handler.folder = Path(folder.name) / "site"
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["SITE_TESTS_FOLDER"] = str(Handler.folder)
    os.environ["SITE_TESTS_URL"] = f"http://127.0.0.1:{server.server_port}{SUB_PATH}"
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(server.server_close)
    config.add_cleanup(server.shutdown)


@pytest.fixture(scope="session")
def site_url():
    return os.environ["SITE_TESTS_URL"]


@pytest.fixture(scope="session")
def site_folder(site_url):
    """Built for the address it is served at, without which there is no instant navigation."""
    folder = Path(os.environ["SITE_TESTS_FOLDER"])
    with lock(folder):
        if not folder.exists():
            built = build(ROOT, folder, SITE_URL=site_url)
            if built.returncode != 0:
                shutil.rmtree(folder, ignore_errors=True)
            assert built.returncode == 0, built.stderr
    return folder


def build(project, folder, *arguments, **environment):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(
        [*command, *arguments],
        cwd=project,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "KERAS_BACKEND": "jax", **environment},
        capture_output=True,
        text=True,
    )


def missing(what):
    """Skips, or fails where a browser is required."""
    (pytest.fail if os.environ.get("CI_REQUIRE_BROWSER") == "1" else pytest.skip)(what)


@pytest.fixture(scope="session")
def chromium():
    """The browser's path."""
    installed = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    path = next(filter(None, installed), None) or playwrights_own()
    if not Path(path).is_file():
        missing("needs Chromium: install it, set CHROMIUM, or run playwright install chromium")
    return path


def playwrights_own():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


@pytest.fixture(scope="session")
def launch(chromium):
    """Starts a browser, without OpenGL, for which a page seems to wait for ever at times."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        yield lambda: playwright.chromium.launch(executable_path=chromium, args=FLAGS)


@pytest.fixture(scope="session")
def browser(launch):
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, site_url, site_folder):
    """`open_page(path, **options)`: a page of the site in a fresh context with these options."""
    contexts = []

    def open_(path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.goto(site_url + path)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe():
    """The accessibility checker's script, from its package."""
    # By its path: the folder on sys.path would put its numbers.py before Python's.
    path = ROOT / "docs/_tools/site/assets.py"
    spec = importlib.util.spec_from_file_location("site_assets", path)
    assets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(assets)
    with tarfile.open(assets.package("axe-core", AXE, AXE_SHA256)) as tar:
        return tar.extractfile("package/axe.min.js").read().decode()

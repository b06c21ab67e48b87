"""A slow server on this machine that stands for the web; a process of its own."""

import hashlib
import http.server
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(path: Path, seconds: float = 0.3) -> Iterator[tuple[str, str]]:
    """Serve one file, in so many seconds; gives its address and MD5.

    Each request leaves a line in `requests.log` beside the file.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        _serve(listening, path, seconds)
        os._exit(0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/{path.name}"
    listening.close()
    try:
        yield url, hashlib.md5(path.read_bytes()).hexdigest()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def requests_of(path: Path) -> int:
    log = path.with_name("requests.log")
    return len(log.read_text().splitlines()) if log.exists() else 0


def _serve(listening: socket.socket, path: Path, seconds: float) -> None:
    content = path.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with open(path.with_name("requests.log"), "a") as log:
                log.write(f"{self.path}\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            step = len(content) // 20 + 1
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(seconds / 20)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(listening.getsockname(), Handler, False)
    server.socket.close()
    server.socket = listening
    server.handle_error = lambda *args: None
    server.serve_forever()

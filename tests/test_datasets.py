"""Finding, fetching and unpacking data; a server on this machine stands for the web."""

import hashlib
import http.server
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import write_msd

import kdcore
from kdcore.data import download as datasets


@pytest.fixture
def archive(tmp_path):
    folder = write_msd(tmp_path / "make" / datasets.HIPPOCAMPUS, 2)
    path = tmp_path / "served" / f"{datasets.HIPPOCAMPUS}.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.add(folder, datasets.HIPPOCAMPUS)
        junk = tarfile.TarInfo(f"._{datasets.HIPPOCAMPUS}")
        tar.addfile(junk, io.BytesIO(b""))
    return path


@pytest.fixture
def served(archive, tmp_path, monkeypatch):
    """The archive over http; `broken` transfers stop half-way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        broken = requests = 0

        def do_GET(self):
            Handler.requests += 1
            content = archive.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if Handler.broken:
                Handler.broken -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_URL", url)
    monkeypatch.setattr(datasets, "SECURE", "http://127.0.0.1:")
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDCORE_DATA", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield Handler
    server.shutdown()


def kept():
    """What is in the cache, but for the lock."""
    return sorted(p.name for p in datasets.cache_folder().iterdir() if p.suffix != ".lock")


def test_order_of_places(tmp_path, monkeypatch):
    folders = {n: write_msd(tmp_path / n / datasets.HIPPOCAMPUS, 1) for n in ("a", "b", "c")}
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "b"))
    assert kdcore.hippocampus_folder(tmp_path / "a") == folders["a"]
    assert kdcore.hippocampus_folder(folders["a"]) == folders["a"]
    assert kdcore.hippocampus_folder() == folders["b"]
    monkeypatch.delenv("KDCORE_DATA")
    assert kdcore.hippocampus_folder() == folders["c"]


def test_named_places_must_hold_the_data(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="data_dir is .* holds a dataset.json"):
        kdcore.hippocampus_folder(tmp_path)
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="KDCORE_DATA is"):
        kdcore.hippocampus_folder()


def test_downloads_checks_and_unpacks(served):
    folder = kdcore.hippocampus_folder()
    assert len(kdcore.read_msd(folder)) == 2
    served.broken = 99  # from now on nothing is fetched
    assert kdcore.hippocampus_folder() == folder
    assert kept() == [datasets.HIPPOCAMPUS]


def test_two_at_once_download_once(served):
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: kdcore.hippocampus_folder(), range(2)))
    assert folders[0] == folders[1] and served.requests == 1


def test_a_broken_transfer_is_started_again(served):
    served.broken = 2
    assert len(kdcore.read_msd(kdcore.hippocampus_folder())) == 2


def test_a_wrong_digest_is_refused(served, monkeypatch):
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_MD5", "0" * 32)
    with pytest.raises(ValueError, match="hash of downloaded file"):
        kdcore.hippocampus_folder()
    assert not kept()


def test_offline_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_URL", "https://127.0.0.1:9/x.tar")
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    monkeypatch.delenv("KDCORE_DATA", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="--data-dir .* KDCORE_DATA .* put the extracted"):
        kdcore.hippocampus_folder()


def add(tar, name, **attributes):
    member = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(b"x" * member.size))


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "top/../../evil", "size": 1},
        {"name": "../evil", "size": 1},
        {"name": "/tmp/evil", "size": 1},
        {"name": "other/file", "size": 1},
        {"name": "top/link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "top/hard", "type": tarfile.LNKTYPE, "linkname": "top/file"},
        {"name": "top/device", "type": tarfile.CHRTYPE},
    ],
)
def test_hostile_archives_write_nothing(tmp_path, attributes):
    path, target = tmp_path / "a.tar", tmp_path / "target"
    with tarfile.open(path, "w") as tar:
        add(tar, "top/file", size=1)
        add(tar, **attributes)
    with pytest.raises(ValueError, match="Nothing was unpacked"):
        datasets.extract(path, target, "top")
    assert not list(target.iterdir()) and not (tmp_path / "evil").exists()


def test_a_damaged_archive_is_named(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"Task04_Hippocampus.tar cannot be unpacked"):
        datasets.extract(archive, tmp_path / "target", datasets.HIPPOCAMPUS)
    assert not list((tmp_path / "target").iterdir())

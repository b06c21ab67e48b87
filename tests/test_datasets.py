"""Finding, fetching and unpacking data; a server on this machine stands for the web."""

import hashlib
import http.server
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import acdc_volume, write_h5, write_msd

import kdcore
from kdcore._files import file_digest
from kdcore.data import download as datasets

FILES = [f"patient{p:03d}_frame{f:02d}.h5" for p in range(1, 4) for f in (1, 12)]


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
    """The archive and ACDC's files over http; `broken` transfers stop half-way."""
    for number, name in enumerate(FILES):
        write_h5(archive.parent / name, *acdc_volume(number))

    class Handler(http.server.BaseHTTPRequestHandler):
        broken, requests = 0, []

        def do_GET(self):
            Handler.requests.append(self.path.strip("/"))
            content = (archive.parent / self.path.strip("/")).read_bytes()
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
    url = f"http://127.0.0.1:{server.server_port}"
    listed = tmp_path / "acdc-sha256.txt"
    listed.write_text("".join(f"{file_digest(archive.parent / n)}  {n}\n" for n in FILES))
    monkeypatch.setattr(datasets, "ACDC_URL", url)
    monkeypatch.setattr(datasets, "ACDC_SHA256", listed)
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_URL", f"{url}/{archive.name}")
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
    assert folders[0] == folders[1] and len(served.requests) == 1


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


def test_an_archive_that_cannot_be_unpacked_leaves_nothing(served, archive, monkeypatch):
    archive.write_bytes(archive.read_bytes()[:3000])
    monkeypatch.setattr(datasets, "HIPPOCAMPUS_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(tarfile.TarError):
        kdcore.hippocampus_folder()
    assert not kept()


# --- ACDC: many files -------------------------------------------------------------------------


def test_acdc_is_fetched_file_by_file_and_once(served, capsys):
    folder = kdcore.data.acdc_folder()
    assert len(kdcore.data.read_acdc(folder)) == 6 and served.requests == FILES
    assert "CC BY-NC-SA 4.0). Cite Bernard et al. 2018" in capsys.readouterr().out
    assert kdcore.data.acdc_folder() == folder and len(served.requests) == 6
    assert "Cite" not in capsys.readouterr().out


def test_after_an_interrupt_it_goes_on(served, monkeypatch):
    fetch = datasets.download

    def interrupted(url, *args, **kwargs):
        if url.endswith(FILES[3]):
            raise KeyboardInterrupt
        return fetch(url, *args, **kwargs)

    monkeypatch.setattr(datasets, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kdcore.data.acdc_folder()
    assert sorted(p.name for p in (datasets.cache_folder() / "ACDC").iterdir()) == FILES[:3]
    monkeypatch.setattr(datasets, "download", fetch)
    assert len(kdcore.data.read_acdc(kdcore.data.acdc_folder())) == 6
    assert served.requests == FILES


def test_a_file_that_changed_in_the_cache_is_fetched_again(served):
    folder = kdcore.data.acdc_folder()
    whole = (folder / FILES[2]).read_bytes()
    (folder / FILES[2]).write_bytes(whole[:100])
    (folder / FILES[5]).unlink()
    kdcore.data.acdc_folder()
    assert served.requests[6:] == [FILES[2], FILES[5]]
    assert (folder / FILES[2]).read_bytes() == whole


def test_a_broken_transfer_and_another_file(served, archive):
    served.broken = 2
    kdcore.data.acdc_folder()
    write_h5(archive.parent / FILES[0], *acdc_volume(99))
    (datasets.cache_folder() / "ACDC" / FILES[0]).unlink()
    with pytest.raises(ValueError, match=f"hash of downloaded file.*{FILES[0]}"):
        kdcore.data.acdc_folder()


def test_acdc_offline_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "ACDC_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    monkeypatch.delenv("KDCORE_DATA", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="holds ACDC, or set .* put the extracted"):
        kdcore.data.acdc_folder()


def test_acdc_in_named_places(tmp_path, monkeypatch):
    for place in ("a/ACDC/ACDC_training_volumes", "b"):
        for name in FILES[:2]:
            write_h5(tmp_path / place / name, *acdc_volume())
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "a"))
    assert kdcore.data.acdc_folder() == tmp_path / "a" / "ACDC"
    assert kdcore.data.acdc_folder(tmp_path / "b") == tmp_path / "b"
    (tmp_path / "c").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"data_dir is .*c, but neither .* holds patient001/"
    ):
        kdcore.data.acdc_folder(tmp_path / "c")


def test_the_list_of_digests_is_whole_and_shipped():
    lines = [line.split() for line in datasets.ACDC_SHA256.read_text().splitlines()]
    assert all(len(digest) == 64 and int(digest, 16) for digest, _ in lines)
    names = [name for _, name in lines]
    assert len(set(names)) == 200 and len({name[:10] for name in names}) == 100
    split = kdcore.data.acdc_split([name.removesuffix(".h5") for name in names], 7)
    assert len(split.labelled + split.unlabelled) == 140
    assert datasets.ACDC_SHA256.parent == Path(datasets.__file__).parent

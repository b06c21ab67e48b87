"""Where the public data are: a folder of yours, the cache, or a checked download."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from kdcore._files import lock

HIPPOCAMPUS = "Task04_Hippocampus"
HIPPOCAMPUS_URL = f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{HIPPOCAMPUS}.tar"
HIPPOCAMPUS_MD5 = "9d24dba78a72977dbd1d2e110310f31b"
DATA_VARIABLE = "KDCORE_DATA"
SECURE = "https://"


def hippocampus_folder(data_dir: str | Path | None = None) -> Path:
    """The Decathlon's Task04_Hippocampus, found or downloaded.

    Looked for in this order: `data_dir`; the environment variable `KDCORE_DATA`; the
    user's cache; the official archive (28 MB), whose digest is checked before it is
    unpacked into the cache. The first two name the folder itself or its parent.

    Returns:
        A folder for `read_msd`.

    Raises:
        FileNotFoundError: If `data_dir` or `KDCORE_DATA` is set but holds no such data.
        ConnectionError: If it has to be downloaded and cannot be; names the ways out.
        ValueError: If the archive is not the official one, or unsafe to unpack.

    Reference: Simpson et al. 2019, https://arxiv.org/abs/1902.09063 (CC BY-SA 4.0)
    """
    for name, folder in (
        ("data_dir", data_dir),
        (DATA_VARIABLE, os.environ.get(DATA_VARIABLE)),
    ):
        if folder:
            return _local(name, Path(folder).expanduser())
    cached = cache_folder() / HIPPOCAMPUS
    if not cached.is_dir():
        with lock(cached):
            if not cached.is_dir():  # another process may have put it there
                archive = download(HIPPOCAMPUS_URL, f"md5:{HIPPOCAMPUS_MD5}", cache_folder())
                extract(archive, cache_folder(), HIPPOCAMPUS)
                archive.unlink()
    return cached


def cache_folder() -> Path:
    """Where downloads are kept: `KDCORE_CACHE`, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("KDCORE_CACHE") or pooch.os_cache("kdcore"))


def download(url: str, digest: str, folder: Path) -> Path:
    """Fetch a file with a progress bar; it is put in place only if its digest is right.

    Over https alone and without following redirects. A broken transfer is started again, three
    times at most.
    """
    import pooch
    from requests.exceptions import RequestException

    if not (url.startswith(SECURE) and digest):
        raise ValueError(f"{url} is not fetched: that needs {SECURE} and a digest ({digest!r}).")
    name = url.rsplit("/", 1)[-1]
    store = pooch.create(
        path=folder, base_url="", urls={name: url}, registry={name: digest}, retry_if_failed=3
    )
    pooch.get_logger().setLevel("WARNING")
    try:
        fetcher = pooch.HTTPDownloader(progressbar=True, allow_redirects=False)
        return Path(store.fetch(name, downloader=fetcher))
    except (RequestException, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({type(error).__name__}). Without a network: "
            f"pass --data-dir with a folder that holds {name.removesuffix('.tar')}, or set "
            f"{DATA_VARIABLE} to it, or put the extracted folder into {folder}."
        ) from error


def extract(archive: Path, folder: Path, top: str) -> Path:
    """Unpack `top` from a tar archive into `folder`: all of it or nothing.

    Raises:
        ValueError: If the archive is damaged, holds links or devices, or a name that
            leads out of `top`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".part-"))
    try:
        with tarfile.open(archive, "r:") as tar:  # not packed, so it grows no further
            members = tar.getmembers()
            for member in members:
                _check_member(member, archive, top)
            tar.extractall(temporary, members=members, filter="data")
        if not (temporary / top).is_dir():
            raise ValueError(f"{archive} does not hold the folder {top}.")
        os.replace(temporary / top, folder / top)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}. Delete it.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / top


def _check_member(member: tarfile.TarInfo, archive: Path, top: str) -> None:
    parts = Path(member.name).parts
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise ValueError(f"{archive} holds {member.name}, a link or device. Nothing was unpacked.")
    inside = parts[:1] == (top,) or (len(parts) == 1 and parts[0].startswith("._"))
    if not inside or ".." in parts or Path(member.name).is_absolute():
        raise ValueError(
            f"{archive} holds {member.name}, which leads out of {top}. Nothing was unpacked."
        )


def _local(name: str, folder: Path) -> Path:
    for candidate in (folder, folder / HIPPOCAMPUS):
        if (candidate / "dataset.json").is_file():
            return candidate
    raise FileNotFoundError(
        f"{name} is {folder}, but neither it nor {folder / HIPPOCAMPUS} holds a dataset.json. "
        f"Expected the Decathlon's folder {HIPPOCAMPUS}."
    )

"""Where the public data are: a folder of yours, the cache, or a checked download."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdcore._files import lock
from kdcore.data.acdc import holds_acdc

HIPPOCAMPUS = "Task04_Hippocampus"
HIPPOCAMPUS_URL = f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{HIPPOCAMPUS}.tar"
HIPPOCAMPUS_MD5 = "9d24dba78a72977dbd1d2e110310f31b"
ACDC = "ACDC"
ACDC_COMMIT = "a594da8d99a42860bf1dad7cea02bd168e3683b1"
ACDC_URL = (
    f"https://raw.githubusercontent.com/HiLab-git/WSL4MIS/{ACDC_COMMIT}"
    "/data/ACDC/ACDC_training_volumes"
)
ACDC_SHA256 = Path(__file__).with_name("acdc-sha256.txt")
"""Digest and name of each of the 200 files of that commit."""
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
        ValueError: If the archive is not the official one.

    Examples:
        >>> import kdcore
        >>> folder = kdcore.hippocampus_folder("data")  # without an argument it is downloaded
        >>> folder.name
        'Task04_Hippocampus'

    Reference: Simpson et al. 2019, https://arxiv.org/abs/1902.09063 (CC BY-SA 4.0)
    """
    found = _local(data_dir, HIPPOCAMPUS, _holds_hippocampus, "a dataset.json")
    if found:
        return found
    cached = cache_folder() / HIPPOCAMPUS
    if not cached.is_dir():
        with lock(cached):
            if not cached.is_dir():  # another process may have put it there
                _unpack(HIPPOCAMPUS_URL, f"md5:{HIPPOCAMPUS_MD5}", cached)
    return cached


def acdc_folder(data_dir: str | Path | None = None) -> Path:
    """ACDC, found or downloaded: 100 hearts in cine-MRI at two times.

    Looked for in this order: `data_dir`; the environment variable `KDCORE_DATA`; the
    user's cache, where of the 200 pre-processed HDF5 volumes (118 MB, without the size of voxels)
    those are fetched that are not there or not whole, each checked by its SHA-256. After an
    interrupt it goes on. The first two name the folder itself, in either layout that
    `read_acdc` knows, or its parent.

    Licence of the data: CC BY-NC-SA 4.0. Whoever uses them cites Bernard et al. 2018.

    Returns:
        A folder for `read_acdc`.

    Raises:
        FileNotFoundError: If `data_dir` or `KDCORE_DATA` is set but holds no such data.
        ConnectionError: If it has to be downloaded and cannot be; names the ways out.
        ValueError: If a file is not that of the pinned commit.

    Examples:
        >>> import kdcore.data
        >>> folder = kdcore.data.acdc_folder("data")  # without an argument it is downloaded
        >>> cases = kdcore.data.read_acdc(folder)

    Reference: Bernard et al. 2018, https://doi.org/10.1109/TMI.2018.2837502; volumes by
    https://github.com/HiLab-git/WSL4MIS
    """
    found = _local(data_dir, ACDC, holds_acdc, "patient001/ or patient001_frame01.h5 and so on")
    if found:
        return found
    cached = cache_folder() / ACDC
    files = [line.split() for line in ACDC_SHA256.read_text(encoding="utf-8").splitlines()]
    with lock(cached):
        if not cached.is_dir():
            tqdm.write(
                "Fetching ACDC (118 MB, CC BY-NC-SA 4.0). Cite Bernard et al. 2018, "
                "https://doi.org/10.1109/TMI.2018.2837502."
            )
        # Only what takes a while shows its progress.
        for digest, name in tqdm(files, "fetching ACDC", unit="file", delay=2):
            download(f"{ACDC_URL}/{name}", f"sha256:{digest}", cached, what=ACDC)
    return cached


def cache_folder() -> Path:
    """Where downloads are kept: `KDCORE_CACHE`, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("KDCORE_CACHE") or pooch.os_cache("kdcore"))


def download(
    url: str,
    digest: str,
    folder: Path,
    *,
    what: str,
    processor: Any = None,
    progress: bool = False,
) -> Path:
    """Fetch a file; it is put in place, and processed, only if its digest is right.

    One that is there and right is not fetched again. Over https alone and without following
    redirects. A broken transfer is started again, three times at most.

    Args:
        url: Of the file, which keeps its name.
        digest: `sha256:…` or `md5:…`.
        folder: Where it is put.
        what: Folder of data that it belongs to, for the message of an error.
        processor: Of pooch, such as `pooch.Untar()`.
        progress: Whether a bar shows the bytes.
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
        fetcher = pooch.HTTPDownloader(progressbar=progress, allow_redirects=False)
        store.fetch(name, processor=processor, downloader=fetcher)
        return folder / name
    except (RequestException, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({type(error).__name__}). Without a network: "
            f"pass --data-dir with a folder that holds {what}, or set {DATA_VARIABLE} to it, or "
            f"put the extracted folder {what} into {cache_folder()}."
        ) from error


def _unpack(url: str, digest: str, target: Path) -> None:
    """Fetch a tar archive and put the folder `target.name` from it in place, whole."""
    import pooch

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as part:
        untar = pooch.Untar(extract_dir="unpacked")
        download(url, digest, Path(part), what=target.name, processor=untar, progress=True)
        os.replace(Path(part) / "unpacked" / target.name, target)


def _local(
    data_dir: str | Path | None, name: str, holds: Callable[[Path], bool], expected: str
) -> Path | None:
    """The folder that the caller or the environment names, or None where neither does."""
    for source, given in (("data_dir", data_dir), (DATA_VARIABLE, os.environ.get(DATA_VARIABLE))):
        if not given:
            continue
        folder = Path(given).expanduser()
        for candidate in (folder / name, folder):
            if candidate.is_dir() and holds(candidate):
                return candidate
        raise FileNotFoundError(
            f"{source} is {folder}, but neither it nor {folder / name} holds {expected}. "
            f"Expected the folder {name}."
        )
    return None


def _holds_hippocampus(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()

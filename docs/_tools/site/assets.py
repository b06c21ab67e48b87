"""Files the site needs and the repository does not hold: KaTeX, the scripts, the changelog."""

import os
import re
import tarfile
from pathlib import Path

import pooch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[3]
KATEX = "0.19.1"
KATEX_SHA256 = "24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd"
REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
WANTED = re.compile(
    r"package/dist/(?:contrib/)?((?:katex|auto-render)\.min\.(?:css|js)|fonts/\S+\.woff2)"
)
OLDER_FONTS = re.compile(rb',url\([^)]*\.(?:woff|ttf)\) format\("[^"]*"\)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, content in katex().items():
        files.append(File.generated(config, f"assets/katex/{name}", content=content))
    for script in sorted((ROOT / "examples").glob("0*.py")):
        uri = f"tutorial/{script.name}"
        kept = InclusionLevel.INCLUDED
        files.append(File.generated(config, uri, abs_src_path=str(script), inclusion=kept))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    files.append(File.generated(config, "changelog.md", content=changelog))
    return files


def katex() -> dict[str, bytes]:
    """Script, style sheet and fonts from KaTeX's package."""
    files = {}
    with tarfile.open(package("katex", KATEX, KATEX_SHA256)) as tar:
        for member in tar.getmembers():
            if (match := WANTED.fullmatch(member.name)) and (handle := tar.extractfile(member)):
                files[match[1]] = handle.read()
    files["katex.min.css"] = OLDER_FONTS.sub(b"", files["katex.min.css"])
    return files


def package(name: str, version: str, sha256: str) -> Path:
    """An archive of npm's registry, fetched once and checked; no Node is needed."""
    file = f"{name}-{version}.tgz"
    url = f"{REGISTRY}/{name}/-/{file}"
    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=ROOT / ".cache"))
    except (OSError, ValueError) as error:
        raise PluginError(
            f"{name}, which the site needs, could not be fetched from {url}: {error}. "
            f"Without a network put that file into {ROOT / '.cache'}."
        ) from error

"""Notebook pages: the cells in the site's markup, under what a reader wants to know of the run.

Figures become files of the site, in a light and a dark form.
"""

import base64
import hashlib
import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import cells

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
PICTURE = re.compile(
    r'<picture class="kd-figure"><source [^>]*srcset="(?P<dark>[^"]+)"/?>'
    r'<img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)"/?></picture>'
)
FIGURE = re.compile(r'<span class="kd-figure">.*?</span>')
LINK = re.compile(r'href="(?P<path>(?:\.\./|[\w-]+/)*[\w-]+)\.(?:md|ipynb)(?P<anchor>#[^"]*)?"')
COMMANDS = {"07": "example -- 07", "06": "example -- 06", "08": "example -- 08"}


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    notebook = json.loads(Path(page.file.abs_src_path).read_text("utf-8"))
    _refuse_errors(notebook, page)
    body = LINK.sub(lambda match: _link(match, page, files), cells.body(content))
    body = PICTURE.sub(lambda match: _images(match, page, config, files), body)
    title, rest = body.split("</h1>", 1)
    return f"{title}</h1>{result(rest)}{head(notebook, page, config)}{rest}"


def result(body: str) -> str:
    """The picture that the notebook ends with, to begin with."""
    pictures = FIGURE.findall(body)
    if len(pictures) < 2:  # the only one is near enough
        return ""
    return f"<figure>{pictures[-1]}<figcaption>What this page ends with.</figcaption></figure>"


def head(notebook: dict[str, Any], page: Page, config: MkDocsConfig) -> str:
    """Time, hardware, seed, versions, downloads, the command, how to cite."""
    made = notebook["metadata"]["kdcore"]
    number, versions = made["script"][:2], made["versions"]
    repository = (config.repo_url or "").removeprefix("https://github.com/").rstrip("/")
    return TEMPLATES.get_template("notebook.html").render(
        made=made,
        minutes=max(1, round(made["seconds"] / 60)),
        versions=", ".join(f"{k} {versions[k]}" for k in ("python", "keras", made["backend"])),
        command=f"python3 -m nox -s {COMMANDS.get(number, 'reproduce')}",
        notebook=Path(page.file.src_uri).name,
        script=f"../{made['script']}",
        colab=f"https://colab.research.google.com/github/{repository}/blob/main/docs/"
        + page.file.src_uri,
        year=made["date"][:4],
    )


def _refuse_errors(notebook: dict[str, Any], page: Page) -> None:
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                raise PluginError(
                    f"{page.file.src_uri}: cell {number} ended in {output['ename']}: "
                    f"{output['evalue']}. Run nox -s examples."
                )
    if "kdcore" not in notebook["metadata"]:
        raise PluginError(f"{page.file.src_uri} was not made by nox -s examples.")


def _link(match: re.Match[str], page: Page, files: Files) -> str:
    """A link to a page's source as one to the page."""
    folder = Path(page.file.src_uri).parent
    for ending in (".md", ".ipynb"):
        target = os.path.normpath(f"{folder}/{match['path']}{ending}")
        if found := files.get_file_from_path(target):
            return f'href="{found.url_relative_to(page.file)}{match["anchor"] or ""}"'
    raise PluginError(f"{page.file.src_uri} links to {match['path']}, which is no page.")


def _images(match: re.Match[str], page: Page, config: MkDocsConfig, files: Files) -> str:
    images = []
    for scheme in ("light", "dark"):
        content = base64.b64decode(match[scheme].split(",", 1)[1])
        name = hashlib.sha256(content).hexdigest()[:16]
        uri = f"assets/notebooks/{name}.png"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=content))
        file = files.get_file_from_path(uri)
        assert file is not None
        where = file.url_relative_to(page.file)
        alt = html.escape(html.unescape(match["alt"]), quote=True)
        images.append(f'<img alt="{alt}" src="{where}#only-{scheme}" loading="lazy">')
    return f'<span class="kd-figure">{"".join(images)}</span>'

"""The search finds pages, not the source code below a function nor how the project came about.

Its index is most of what a first visit loads.
"""

from typing import Any

from mkdocs.structure.pages import Page

LEFT_OUT = ("design.md", "changelog.md")
SOURCE = '<details class="mkdocstrings-source"'


def on_page_content(content: str, page: Page, **_: Any) -> str:
    if page.file.src_uri in LEFT_OUT:
        page.meta["search"] = {"exclude": True}
    return content.replace(SOURCE, f"{SOURCE} data-search-exclude")

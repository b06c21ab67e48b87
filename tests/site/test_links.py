"""Every link, image, script and anchor of the built site leads somewhere in it."""

from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup

ATTRIBUTES = {"a": "href", "img": "src", "script": "src", "link": "href", "source": "srcset"}


@pytest.fixture(scope="module")
def pages(site_folder):
    """`{address under the site: parsed page}`."""
    found = {}
    for path in site_folder.rglob("*.html"):
        address = path.relative_to(site_folder).as_posix().removesuffix("index.html")
        found[address] = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    return found


def targets(soup):
    for tag, attribute in ATTRIBUTES.items():
        for element in soup.select(f"{tag}[{attribute}]"):
            yield element[attribute]


def is_outside(target):
    return urlsplit(target).scheme != "" or target.startswith("//")


def anchors(soup):
    return {e["id"] for e in soup.select("[id]")} | {e["name"] for e in soup.select("a[name]")}


def test_every_internal_link_and_anchor_resolves(pages, site_folder, site_url):
    known, broken, seen = {a: anchors(s) for a, s in pages.items()}, [], 0
    for address, soup in pages.items():
        if address == "404.html":  # served at any address, with absolute links
            continue
        for target in targets(soup):
            url, anchor = urldefrag(urljoin(site_url + address, target))
            if not url.startswith(site_url):
                continue
            seen += 1
            path = unquote(url.removeprefix(site_url)).partition("?")[0]
            if path in known:
                if anchor and anchor not in known[path] and not anchor.startswith("__"):
                    broken.append(f"{address}: {target} (no such anchor)")
            elif not (site_folder / path).is_file():
                broken.append(f"{address}: {target}")
    assert seen > 2000 and not broken, "\n".join(sorted(set(broken)))


def test_nothing_is_loaded_from_elsewhere(pages):
    loaded = [
        f"{address}: {element}"
        for address, soup in pages.items()
        for element in soup.select("script[src], img[src], link[rel=stylesheet], iframe, source")
        if is_outside(element.get("src") or element.get("href") or "data:")
        and not (element.get("src") or element.get("href") or "").startswith("data:")
    ]
    assert not loaded, loaded


def test_pages_have_a_policy_and_no_inline_style(pages):
    for address, soup in pages.items():
        policy = soup.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
        assert "unsafe" not in policy and "default-src 'none'" in policy
        assert not soup.select("[style]"), f"{address}: {soup.select('[style]')[0]}"
        assert not soup.select("[onclick], [onload]"), address


def test_notebook_pages_are_light(site_folder):
    for path in site_folder.glob("tutorial/*/index.html"):
        assert path.stat().st_size <= 100_000, path.parent.name


def test_every_notebook_and_script_can_be_downloaded(pages, site_folder):
    notebooks = [a for a in pages if a.startswith("tutorial/0")]
    assert len(notebooks) == 9
    for address in notebooks:
        links = [a["href"] for a in pages[address].select(".kd-run__links a")]
        assert {link.rsplit(".", 1)[-1] for link in links} == {"ipynb", "py"}
        assert sum("colab.research.google.com" in link for link in links) == 1

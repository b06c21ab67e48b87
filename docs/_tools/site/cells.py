"""The body of a notebook page in the site's own markup, from what mkdocs-jupyter makes.

Its cells carry JupyterLab's classes, a style sheet of half a megabyte, a second copy of the code
and prompts that end up in the search index. Here code looks and copies as everywhere else.
"""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag

MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+?\$", re.DOTALL)


def body(content: str) -> str:
    """HTML of the cells, in order, and nothing else."""
    soup = BeautifulSoup(content, "html.parser")
    return "\n".join(part for cell in soup.select("[id^='cell-id=']") for part in _parts(cell))


def _parts(cell: Tag) -> Iterator[str]:
    for text in cell.select(".jp-RenderedMarkdown"):
        yield _markdown(text)
    for code in cell.select("[class^=highlight-ipynb] pre"):
        for plain in code.select("span.n, span.o, span.p, span.w"):  # half the page, and no colour
            plain.unwrap()
        text = code.decode_contents().rstrip()
        yield f'<div class="highlight"><pre><code>{text}</code></pre></div>'
    for output in cell.select(".jp-OutputArea-output"):
        yield _output(output)


def _markdown(text: Tag) -> str:
    for anchor in text.select(".anchor-link"):
        anchor["class"] = "headerlink"
        anchor["title"] = "Link to this section"
    for summary in text.select("details"):
        summary["class"] = "success"
    inner = text.decode_contents()
    return MATH.sub(lambda match: _equation(match[0]), inner)


def _equation(tex: str) -> str:
    """As arithmatex writes it, so that one script renders all equations."""
    if tex.startswith("$$"):
        return f'<div class="arithmatex">\\[{tex[2:-2]}\\]</div>'
    return f'<span class="arithmatex">\\({tex[1:-1]}\\)</span>'


def _output(output: Tag) -> str:
    for styled in output.select("[style]"):  # the policy refuses it, and its colours are faint
        styled.unwrap() if styled.name == "span" else styled.attrs.pop("style")
    if "jp-RenderedHTML" in output.get("class", []):
        return f'<div class="kd-output">{output.decode_contents()}</div>'
    text = "".join(pre.decode_contents() for pre in output.select("pre")).rstrip()
    return f'<pre class="kd-output"><code>{text}</code></pre>' if text else ""

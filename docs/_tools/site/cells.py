"""The body of a notebook page in the site's own markup, from what mkdocs-jupyter makes.

Its cells carry JupyterLab's classes, a style sheet of half a megabyte, a second copy of the code
and prompts that end up in the search index. Here code looks and copies as everywhere else.
"""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag

EPOCHS = re.compile(r"^Epoch \d+/(\d+)$", re.MULTILINE)
LOSS = re.compile(r"(?:^| )loss: ([\d.]+)", re.MULTILINE)
PARAMETERS = re.compile(r"Total params: ([\d,]+)")
TABLE = re.compile(r"^\|.*\|\n\|[-| ]+\|(?:\n\|.*\|)+", re.MULTILINE)
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
    outputs = "\n".join(filter(None, map(_output, cell.select(".jp-OutputArea-output"))))
    if found := PARAMETERS.search(BeautifulSoup(outputs, "html.parser").get_text()):
        yield folded(f"The network, layer by layer: {found[1]} parameters", outputs)
    else:
        yield outputs


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
    losses = LOSS.findall(text)
    if (epochs := EPOCHS.findall(text)) and losses:
        title = f"{epochs[0]} epochs, loss {float(losses[0]):.2f} → {float(losses[-1]):.2f}"
        return folded(title, _plain(text))
    rest, tables = TABLE.split(text), [_table(found) for found in TABLE.findall(text)]
    parts = [_plain(rest[0])]
    for table, after in zip(tables, rest[1:], strict=True):
        parts += [table, _plain(after)]
    return "\n".join(filter(None, parts))


def folded(title: str, content: str) -> str:
    return f'<details class="kd-folded"><summary>{title}</summary>{content}</details>'


def _plain(text: str) -> str:
    """Without a button to copy it, which belongs to code."""
    text = text.strip("\n")
    return f'<pre class="kd-output no-copy"><code>{text}</code></pre>' if text else ""


def _table(text: str) -> str:
    """A table in Markdown as one in HTML."""
    head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in text.split("\n"))
    lines = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"

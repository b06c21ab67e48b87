"""One HTML file with what came out: text, tables and figures in it, nothing fetched."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kdcore._files import replacing

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2328; background: #fff; }
pre { overflow-x: auto; background: #f6f8fa; padding: 0.8rem; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.6rem; text-align: left; }
img { max-width: 100%; height: auto; }
"""


def write_report(path: str | Path, title: str, parts: Iterable[Any]) -> Path:
    """Write a page that can be sent as one file.

    Args:
        path: Ends in `.html`.
        title: Its heading.
        parts: In their order: strings (those with several lines keep their columns), pandas
            tables, and matplotlib figures, whose `figure.set_label(...)` says to those who do
            not see it what there is to see.

    Returns:
        The path.

    Raises:
        ValueError: For a part of another kind.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import write_report
        >>> scores = pd.DataFrame({"arm": ["student", "baseline"], "Dice": [0.54, 0.43]})
        >>> write_report("report.html", "Two networks", ["One seed.", scores]).name
        'report.html'
    """
    title, path = html.escape(title), Path(path)
    body = "\n".join(_part(part) for part in parts)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _part(part: Any) -> str:
    if isinstance(part, str):
        tag = "pre" if "\n" in part else "p"
        return f"<{tag}>{html.escape(part)}</{tag}>"
    if isinstance(part, pd.DataFrame):
        return str(part.to_html(index=False, border=0, float_format="{:.3f}".format))
    if hasattr(part, "savefig"):
        picture = io.BytesIO()
        part.savefig(picture, format="png", dpi=110)
        data = base64.b64encode(picture.getvalue()).decode()
        alt = html.escape(str(part.get_label()), quote=True)
        return f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>'
    raise ValueError(
        f"A report holds strings, pandas tables and matplotlib figures. Received: {type(part)}."
    )

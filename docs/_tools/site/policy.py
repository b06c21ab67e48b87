"""A Content-Security-Policy in each page: only what the page itself holds may run.

GitHub Pages sends no headers of ours, so it stands in the page, before anything it governs.
"""

import base64
import hashlib
import re
from typing import Any

SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<body>.*?)</script>", re.DOTALL)
CHARSET = '<meta charset="utf-8">'
POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self'{styles}; font-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'self'; form-action 'self'"
)
STYLE = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)


def on_post_page(output: str, **_: Any) -> str:
    return with_policy(output)


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    return with_policy(output_content) if template_name.endswith(".html") else output_content


def with_policy(html: str) -> str:
    inline = [m["body"] for m in SCRIPT.finditer(html) if runs(m["attributes"])]
    policy = POLICY.format(hashes=sources(inline), styles=sources(STYLE.findall(html)))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html.replace(CHARSET, f"{CHARSET}\n      {meta}", 1)


def runs(attributes: str) -> bool:
    """Whether it is an inline script, not a file and not data."""
    return "src=" not in attributes and "application/" not in attributes


def sources(bodies: list[str]) -> str:
    """Each body's digest, as a policy names it."""
    digests = (hashlib.sha256(body.encode()).digest() for body in dict.fromkeys(bodies))
    return "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

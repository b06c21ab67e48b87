"""One visit to a page, and everything that was wrong with it."""

import re
import signal
import time
from contextlib import contextmanager

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  ({violatedDirective, blockedURI, sample}) =>
    window.violations.push(`${violatedDirective} ${blockedURI} ${sample}`));
"""
# What loads when it comes into view does so here. A busy machine may draw no frame for long, and
# `evaluate` waits for ever.
SCROLL = """async () => {
  const drawn = () => new Promise((done) => {
    requestAnimationFrame(done);
    setTimeout(done, 250);
  });
  for (let y = 0; y < document.body.scrollHeight; y += innerHeight) {
    scrollTo({top: y, behavior: "instant"});
    await drawn();
  }
  scrollTo({top: 0, behavior: "instant"});
  await drawn();
}"""
VISIBLE_TEXT = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent.closest("code, pre, script, style, noscript, textarea, .katex"))
      texts.push(walker.currentNode.data);
  }
  return texts.join("\\n");
}"""
# Equations, `{$ ... $}` of the pages, and errors that KaTeX shows in red.
RAW = re.compile(r"\\[([a-zA-Z]|\$\$|\$[^$\s][^$\n]*\$|\{\$|\{@")
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 3).map((e) => e.outerHTML.slice(0, 100))"""


COVERED = """() => [...document.querySelectorAll(".katex-display .katex-tag")]
  .filter((tag) => tag.previousElementSibling.getBoundingClientRect().right
    > tag.lastElementChild.getBoundingClientRect().left)
  .map((tag) => tag.textContent)"""


@contextmanager
def heard(page, site_url):
    """A list that what the page says and asks for is added to until the end."""
    faults, origin = [], site_url.split("/kdcore")[0]
    listeners = {
        "console": lambda m: m.type in ("error", "warning") and faults.append(m.text),
        "pageerror": lambda error: faults.append(f"error: {error}"),
        "request": lambda r: is_outside(r.url, origin) and faults.append(f"asks {r.url}"),
        "response": lambda r: r.status >= 400 and faults.append(f"{r.status} {r.url}"),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        yield faults
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)


def is_outside(url, origin):
    return not url.startswith((f"{origin}/kdcore/", f"blob:{origin}", "data:"))


@contextmanager
def at_most(seconds):
    """TimeoutError after them: `evaluate` knows no limit."""

    def late(*_):
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    left = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


def settle(page):
    """Waits for equations, and brings everything into view once."""
    until(page, "!document.querySelector('.arithmatex:not(:has(.katex))')")
    page.evaluate(SCROLL)
    until(page, "[...document.images].every((i) => i.complete || !i.offsetParent)")


def until(page, condition, seconds=40):
    """Waits for it. The policy forbids Playwright's own waiting, which evaluates a text."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{page.url}: never {condition}"
        page.wait_for_timeout(50)


def faults_of(page):
    """Raw TeX, overflow, and what the policy refused."""
    faults = [f"raw: {found[0]}" for found in RAW.finditer(page.evaluate(VISIBLE_TEXT))]
    faults += page.eval_on_selector_all(".katex-error", "all => all.map((e) => e.title)")
    faults += [f"the number {tag} lies on its formula" for tag in page.evaluate(COVERED)]
    faults += page.evaluate("window.violations")
    width, screen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    if width > screen:
        faults.append(f"{width} px wide on {screen} px: {page.evaluate(TOO_WIDE)}")
    return faults


def accessibility(page, axe):
    """Axe's violations, each with the first elements."""
    page.evaluate(axe)
    violations = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{v['id']}: {v['help']}: "
        + " | ".join(n["html"][:160] for n in v["nodes"][:3])
        + f" ({len(v['nodes'])}) "
        + v["nodes"][0]["failureSummary"]
        for v in violations
    ]

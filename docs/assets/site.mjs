// What Material does not do by itself: equations, and names for what a screen reader meets.
const delimiters = [
  { left: "\\[", right: "\\]", display: true },
  { left: "\\(", right: "\\)", display: false },
];

function equations(page) {
  for (const element of page.querySelectorAll(".arithmatex:not(:has(.katex))"))
    window.renderMathInElement(element, { delimiters, throwOnError: false, strict: "ignore" });
}

function name(selector, label) {
  for (const element of document.querySelectorAll(selector)) element.setAttribute("aria-label", label);
}

// Material takes the name of a section's pages from a label without text, and makes a nameless
// landmark of the buttons beside each piece of code.
function landmarks(page) {
  for (const pages of page.querySelectorAll(".md-nav[aria-labelledby]")) {
    pages.setAttribute("aria-label", pages.querySelector(".md-nav__title").textContent.trim());
    pages.removeAttribute("aria-labelledby");
  }
  for (const buttons of page.querySelectorAll(".md-code__nav")) buttons.setAttribute("role", "none");
}

// A wide table or equation scrolls in itself, so it must be reachable with the keyboard.
const WIDE = ".md-typeset__scrollwrap, .katex-display, .md-typeset pre, .md-typeset pre > code, .kd-output";

function scrollable(page) {
  const wide = page.querySelectorAll(WIDE);
  for (const element of wide)
    if (element.scrollWidth > element.clientWidth || element.scrollHeight > element.clientHeight)
      element.setAttribute("tabindex", "0");
}

window.document$.subscribe(() => {
  equations(document);
  name("[data-md-component=search][role=dialog]", "Search");
  requestAnimationFrame(() => {
    landmarks(document);
    scrollable(document);
  });
});

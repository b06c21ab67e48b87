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

// A wide table or equation scrolls in itself, so it must be reachable with the keyboard.
function scrollable(page) {
  const wide = page.querySelectorAll(".md-typeset__scrollwrap, .katex-display, .highlight pre");
  for (const element of wide)
    if (element.scrollWidth > element.clientWidth) element.setAttribute("tabindex", "0");
}

window.document$.subscribe(() => {
  equations(document);
  name("[data-md-component=search][role=dialog]", "Search");
  requestAnimationFrame(() => scrollable(document));
});

// What Material does not do by itself: equations, names for what a screen reader meets, and the
// page's own scripts. Each is fetched by the first page that needs it, and by no other.
const SCRIPTS = {
  "[data-kd-compare]": "./compare.mjs",
  "[data-kd-swipe]": "./swipe.mjs",
  "[data-kd-voxel], [data-kd-slice]": "./lab.mjs",
  "[data-kd-playground]": "./playground.mjs",
  "#demo": "./demo.mjs",
};

function scripts(page) {
  for (const [selector, script] of Object.entries(SCRIPTS)) if (page.querySelector(selector)) import(script);
}

const delimiters = [
  { left: "\\[", right: "\\]", display: true },
  { left: "\\(", right: "\\)", display: false },
];

async function equations(page) {
  const found = page.querySelectorAll(".arithmatex:not(:has(.katex))");
  if (!found.length) return;
  await import("./katex/katex.min.js");
  await import("./katex/auto-render.min.js");
  for (const element of found)
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

window.document$.subscribe(async () => {
  scripts(document);
  name("[data-md-component=search][role=dialog]", "Search");
  await equations(document);
  requestAnimationFrame(() => {
    landmarks(document);
    scrollable(document);
  });
});

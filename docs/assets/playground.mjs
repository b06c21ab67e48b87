// The playground is fetched when a page of its own is opened, or a scene of it comes into view.
import { onEach } from "./compare.mjs";

onEach("[data-kd-playground]", (root) => {
  if (!root.classList.contains("kd-scene")) begin(root);
  else new IntersectionObserver(([entry], watch) => {
    if (!entry.isIntersecting) return;
    watch.disconnect();
    begin(root);
  }).observe(root);
});

async function begin(root) {
  try {
    const { start } = await import("./playground/page.mjs");
    await start(root);
  } catch (error) {
    root.classList.add("kd-static"); // the pictures stay
    console.error(error);
  }
}

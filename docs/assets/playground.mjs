// The playground is fetched when a page that has one is opened, and not before.
import { onEach } from "./compare.mjs";

onEach("[data-kd-playground]", async (root) => {
  try {
    const { start } = await import("./playground/page.mjs");
    await start(root);
  } catch (error) {
    root.classList.add("kd-static"); // the pictures stay
    console.error(error);
  }
});

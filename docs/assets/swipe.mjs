// Two pictures of one slice, of which a slider shows more of the one or the other.
import { onEach } from "./compare.mjs";

onEach("[data-kd-swipe]", (pair) => {
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", pair.dataset.kdSwipe);
  const show = () => {
    pair.style.setProperty("--kd-swipe", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % of the width is the student's`);
  };
  slider.addEventListener("input", show);
  pair.append(slider);
  show();
});

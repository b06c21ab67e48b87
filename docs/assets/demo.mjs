// The live demo's controls. The networks run in unet-worker.mjs. Student and baseline are small and
// run on the first slice by themselves; the teacher is fetched when it is asked for.

import { dice, draw, mostLikely } from "./overlay.mjs";

class Demo {
  #root;
  #worker = null;
  #ending = new AbortController();
  #source = null; // what is chosen: an action of the worker's and its arguments
  #scan = null; // what the worker has read, with its `source`
  #shown = null; // what stands on the page: `scan`, `plane` and each network's result
  #stale = false;
  #running = false;
  #maskFile = null; // chosen, not yet read
  #follow = false; // bring what is chosen into view

  constructor(root) {
    this.#root = root;
    this.plane = this.#find("[name=plane]");
    this.opacity = this.#find("[name=opacity]");
    this.compare = this.#find("[name=compare]");
    this.save = this.#find("[name=save]");
    this.file = this.#find("#demo-file");
    this.mask = this.#find("#demo-mask");
    this.#reset(); // a browser may have kept what was chosen before
    this.#listen(root, "change", ({ target }) => this.#choose(target));
    this.#listen(this.plane, "input", () => this.#update());
    this.#listen(this.opacity, "input", () => this.#shown && this.#show());
    this.#listen(this.save, "click", () => this.#save().catch((error) => this.#report(error)));
    this.#listen(this.compare, "click", () => {
      this.#setComparing(!this.#isComparing);
      this.#update();
    });
    acceptDrops(
      (...event) => this.#listen(...event),
      this.#find(".demo-drop"),
      (file, target) => {
        if (!target.closest(".demo-mask")) this.#openFile(file);
        else if (this.mask.disabled) this.#say("Choose a scan (NIfTI) first, then its mask.", "demo-error");
        else this.#openMaskFile(file);
      },
    );
    const first = this.#find("[name=slice]");
    first.checked = true;
    this.#choose(first, { scroll: false });
  }

  end() {
    this.#ending.abort();
    this.#worker?.terminate();
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  #listen(target, type, handler) {
    target.addEventListener(type, handler, { signal: this.#ending.signal });
  }

  get #isComparing() {
    return this.compare.getAttribute("aria-pressed") === "true";
  }

  #setComparing(on) {
    this.compare.setAttribute("aria-pressed", String(on));
  }

  #choose(control, { scroll = true } = {}) {
    if (control === this.file && control.files.length) this.#openFile(control.files[0]);
    if (control === this.mask && control.files.length) this.#openMaskFile(control.files[0]);
    if (control.name === "view" && this.#shown) this.#show();
    if (control.name !== "slice") return;
    this.file.value = "";
    this.#source = { action: "openSample", number: Number(control.value) };
    this.#follow = scroll;
    this.#update();
  }

  #openMaskFile(file) {
    this.#maskFile = file;
    this.#update();
  }

  #openFile(file) {
    this.#uncheck();
    this.#source = { action: "openFile", file };
    this.#follow = true;
    this.#update();
  }

  async #save() {
    const { name, shape } = this.#scan;
    this.#say(shape[0] > 1 ? `The student segments ${shape[0]} slices …` : "The student segments it …");
    const file = await this.#worker.ask("save", { name: "student" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file], { type: "application/gzip" }));
    link.download = `${name.replace(/\.nii(\.gz)?$/i, "")}-student.nii.gz`;
    link.click();
    URL.revokeObjectURL(link.href);
    this.#say(`${link.download} is saved: the whole scan's mask, with the scan's header.`);
  }

  /** Bring the page up to what is chosen; one run at a time, always for the newest choice. */
  async #update() {
    this.#stale = true;
    if (this.#running) return;
    this.#running = true;
    while (this.#stale) {
      this.#stale = false;
      await this.#refresh().catch((error) => this.#report(error));
    }
    this.#running = false;
  }

  async #refresh() {
    this.#worker ??= connect();
    if (this.#scan?.source !== this.#source) await this.#open(this.#source);
    const refused = this.#maskFile && await this.#openMask();
    const plane = Number(this.plane.value);
    const results = {};
    for (const name of ["baseline", "student", ...(this.#isComparing ? ["teacher"] : [])]) {
      if (this.#stale) return;
      if (!this.#shown?.results[name]) this.#say(`Loading the ${name} …`);
      const result = await this.#worker.ask("segment", { name, plane });
      results[name] = { ...result, labels: mostLikely(result.logits, result.image.length) };
    }
    this.#shown = { scan: this.#scan, plane, results };
    this.#show();
    if (refused) this.#say(refused.message, "demo-error");
    else this.#say(describe(this.#shown));
    if (this.#follow) this.#find(".demo-panels").scrollIntoView({ block: "nearest" });
    this.#follow = false;
  }

  async #open(source) {
    this.#say("Reading …");
    const { action, ...request } = source;
    this.#scan = { source, ...(await this.#worker.ask(action, request)) };
    const planes = this.#scan.shape[0];
    this.plane.max = planes - 1;
    this.plane.value = planes >> 1;
    this.plane.parentElement.hidden = planes === 1;
    this.save.hidden = this.mask.disabled = !this.#scan.isVolume;
    this.mask.value = "";
    const notes = this.#scan.notes.map((note) => element("li", note));
    this.#find(".demo-notes").replaceChildren(...notes);
  }

  /** Why it was refused, or nothing; a mask before it no longer counts. */
  async #openMask() {
    const file = this.#maskFile;
    this.#maskFile = null;
    this.#say("Reading …");
    try {
      await this.#worker.ask("openMask", { file });
      return null;
    } catch (error) {
      this.mask.value = "";
      return error;
    }
  }

  #report(error) {
    if (this.#stale) return; // something else has been chosen
    if (!this.#shown) this.#reset();
    else if (this.#shown.scan.source !== this.#source) this.#backToShown();
    else if (!this.#shown.results.teacher) this.#setComparing(false);
    this.#say(error.message, "demo-error");
  }

  /** As before the first choice, so that the same one can be made again. */
  #reset() {
    this.#source = this.#scan = this.#shown = this.#maskFile = null;
    this.file.value = this.mask.value = "";
    this.mask.disabled = true;
    this.#uncheck();
    this.#find(".demo-output").classList.add("demo-waiting"); // its place is kept
    this.#find(".demo-notes").replaceChildren();
  }

  /** What was chosen last cannot be read; what is shown stays. */
  #backToShown() {
    this.#source = this.#shown.scan.source;
    this.file.value = "";
    const { number } = this.#source;
    if (number !== undefined) this.#find(`[name=slice][value="${number}"]`).checked = true;
  }

  #uncheck() {
    for (const radio of this.#root.querySelectorAll("[name=slice]")) radio.checked = false;
  }

  #show() {
    const { scan, plane, results } = this.#shown;
    const { mask, logits, ...slice } = results.student;
    const panels = { reference: { ...slice, labels: mask }, ...results };
    for (const figure of this.#root.querySelectorAll("[data-panel]")) {
      const panel = panels[figure.dataset.panel];
      figure.hidden = !panel;
      if (panel) this.#fill(figure, panel);
    }
    const rows = Object.entries(results).map(([name, result]) => row(name, result));
    this.#find("tbody").replaceChildren(...rows);
    this.#find(".demo-plane span").textContent = `${plane + 1} of ${scan.shape[0]}`;
    this.#find(".demo-output").classList.remove("demo-waiting");
  }

  #fill(figure, panel) {
    const [canvas, caption] = figure.children;
    const count = (label) => panel.labels.filter((value) => value === label).length;
    if (figure.dataset.panel === "reference") {
      caption.textContent = panel.labels ? "Reference" : "Image";
    }
    const content = panel.labels ? `: anterior ${count(1)}, posterior ${count(2)} voxels` : "";
    canvas.setAttribute("aria-label", caption.textContent + content);
    draw(canvas, panel, this.#find("[name=view]:checked").value, this.opacity.value / 100);
  }

  #say(text, kind = "") {
    const status = this.#find(".demo-status");
    status.textContent = text;
    status.className = `demo-status ${kind}`;
  }
}

function acceptDrops(listen, zone, open) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (over) => zone.classList.toggle("demo-over", over);
  listen(window, "dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  listen(window, "dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  listen(window, "drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0], event.target);
  });
}

/** The worker as a function that answers. */
function connect() {
  const url = new URL("./unet-worker.mjs", import.meta.url);
  const worker = new Worker(url, { type: "module" });
  const waiting = new Map();
  let count = 0;
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(answer);
  };
  worker.onerror = () => {
    const error = new Error("The networks could not be started. Reload the page to try again.");
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  return {
    ask(action, request) {
      return new Promise((resolve, reject) => {
        waiting.set(++count, { resolve, reject });
        worker.postMessage({ id: count, action, ...request });
      });
    },
    terminate: () => worker.terminate(),
  };
}

function describe({ scan, results }) {
  const times = Object.entries(results).map(
    ([name, { milliseconds }]) => `${name} ${milliseconds.toFixed(1)} ms`,
  );
  return `${scan.name}: ${times.join(", ")}.`;
}

function row(name, { parameters, milliseconds, labels, mask, testDice }) {
  const scores = [1, 2].map((label) => (mask ? dice(mask, labels, label) : NaN));
  const cells = [
    parameters.toLocaleString("en"),
    milliseconds.toFixed(1),
    ...scores.map((score) => (Number.isNaN(score) ? "–" : score.toFixed(3))),
    testDice.toFixed(3),
  ];
  const head = Object.assign(element("th", name), { scope: "row" });
  const line = document.createElement("tr");
  line.append(head, ...cells.map((text) => element("td", text)));
  return line;
}

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

let demo = null;

function start() {
  demo?.end();
  const root = document.getElementById("demo");
  demo = root && new Demo(root);
}

window.document$.subscribe(start);

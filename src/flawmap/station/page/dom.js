// Making elements. Text goes in as text nodes, never as markup: labels and names come from outside.

import { t } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Other children in the place of those there. */
export function refill(node, ...children) {
  node.replaceChildren();
  fill(node, {}, children);
}

export const button = (content, onclick, attributes) =>
  el("button", { type: "button", onclick, ...attributes }, content);

let fields = 0;

/** A labelled field. `input` is the element that takes the value. */
export function field(text, input) {
  input.id ||= `field-${(fields += 1)}`;
  return el("div", { class: "field" }, el("label", { for: input.id }, text), input);
}

export const select = (options, chosen, attributes) =>
  el(
    "select",
    attributes,
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)),
  );

/** Ask before something that changes what the line does; true when it was agreed to. */
export function ask(question, details, yes) {
  return new Promise((answer) => {
    const dialog = el(
      "dialog",
      { onclose: () => (dialog.remove(), answer(dialog.returnValue === "yes")), "aria-labelledby": "asked" },
      el(
        "form",
        { method: "dialog" },
        el("h2", { id: "asked" }, question),
        details.map((line) => el("p", {}, line)),
        el(
          "div",
          { class: "row end" },
          el("button", { value: "no" }, t("cancel")),
          el("button", { value: "yes", class: "primary" }, yes),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

let fading = 0;

/** One line for a few seconds: what was done, or why it was not. */
export function tell(text, bad = false) {
  hush();
  const told = el("p", { class: bad ? "told bad" : "told", role: bad ? "alert" : "status" }, text);
  (document.querySelector("dialog[open]") ?? document.body).append(told); // a dialog covers what is outside of it
  clearOfControls(told);
  fading = setTimeout(hush, bad ? 9000 : 4000);
}

/** An end to what was told. */
export function hush() {
  clearTimeout(fading);
  document.querySelector(".told")?.remove();
}

const CONTROLS = "button, .button, nav a, .field, .under-stage, summary, [role=slider]";
const STEP = 8; // pixels

/** As near to the foot of the page as no control lies under it. */
function clearOfControls(node) {
  const { left, right, top, bottom } = node.getBoundingClientRect();
  const boxes = [...document.querySelectorAll(CONTROLS)].map((control) => control.getBoundingClientRect());
  const beside = boxes.filter((box) => box.width > 1 && box.left < right && box.right > left);
  const free = (up) => beside.every((box) => box.bottom < top - up || box.top > bottom - up);
  let up = 0;
  while (up < top && !free(up)) up += STEP;
  if (up < top) node.style.translate = `-50% -${up}px`;
}

/** Run what a button starts: it is off meanwhile, and a refusal is told. Gives undefined then. */
export async function busy(control, work) {
  control.disabled = true;
  try {
    return await work();
  } catch (problem) {
    if (problem.status !== 401) tell(problem.message, true);
    return undefined;
  } finally {
    control.disabled = false;
  }
}

export function say(text) {
  document.getElementById("spoken").textContent = text;
}

/** Call `work` once things have been still for `ms`. */
export function still(ms, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
}

const SHAPES = {
  pass: [svg("circle", { cx: 24, cy: 24, r: 20 }), svg("path", { d: "M14 25l7 7 13-15", class: "sign" })],
  reject: [
    svg("path", { d: "M15.5 4h17L44 15.5v17L32.5 44h-17L4 32.5v-17z" }),
    svg("path", { d: "M16 16l16 16M32 16L16 32", class: "sign" }),
  ],
  doubt: [
    svg("path", { d: "M24 4l21 37H3z", "stroke-linejoin": "round" }),
    svg("path", { d: "M19 21a5 5 0 1 1 7.500 4.300c-1.600 1-2.500 1.900-2.500 4.200M24 35.500v.2", class: "sign" }),
  ],
};

/** The sign of a verdict: its shape says it where colour does not. */
export const symbol = (verdict) =>
  svg(
    "svg",
    { viewBox: "0 0 48 48", class: `symbol ${verdict}`, "aria-hidden": "true" },
    SHAPES[verdict].map((shape) => shape.cloneNode(true)),
  );

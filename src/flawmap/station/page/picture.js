// A part's photo, clear, with outlines around what was found; its heat comes over it on a key, and both can be zoomed.

import { pictureOf } from "./api.js";
import { button, el, refill, svg } from "./dom.js";
import { nameOf, t } from "./strings.js";
import { zoomable } from "./zoom.js";

const PATIENCE_MS = 1500; // a verdict does not wait longer than this for its picture
const BLINK_MS = 120; // a picture that comes sooner takes the old one's place without a word between them
const TYPING = "input:not([type=range]), textarea, select";

let strength = 0; // % and the same in every view: a photo is shown clear until somebody asks for heat
let wanted = 60; // % when heat is asked for

const pictures = []; // those made, the latest last: keys are for the last one that is shown

/** `{node, controls, show, expect, tell}`; show(part) resolves when the picture is there, or will not be; expect(part)
 * takes away the picture of any other part, for a view that tells of this one already; tell(text) shows words instead. */
export function picture() {
  const layers = el("div", { class: "layers", tabindex: 0, role: "group", "aria-label": t("pictureKeys") });
  const content = el("div", { class: "content" });
  const zoom = zoomable(layers, content);
  const heat = button([t("heat"), el("kbd", {}, "H")], () => turn(strength ? 0 : wanted), { class: "heat" });
  const range = el("input", { type: "range", min: 0, max: 100, "aria-label": t("heatStrength"), oninput: slide });
  const percent = el("output", {});
  const act = (key, sign, work) => button(sign, work, { "aria-label": t(key), title: t(key), class: "square" });
  const controls = el(
    "div",
    { class: "picture-tools" },
    el("div", { class: "slider" }, heat, range, percent),
    el(
      "div",
      { class: "zoom", role: "group", "aria-label": t("zoom") },
      act("zoomOut", "−", () => zoom.by(-1)),
      act("zoomFit", "⤢", () => zoom.fit()),
      act("zoomIn", "+", () => zoom.by(1)),
    ),
  );
  let latest = null;
  let there = null;

  function slide() {
    turn(Number(range.value));
  }

  function turn(to) {
    strength = to;
    if (to) wanted = to;
    fade();
  }

  function fade() {
    if (Number(range.value) !== strength) range.value = strength;
    percent.textContent = t("heatAt", { percent: strength });
    heat.setAttribute("aria-pressed", String(strength > 0));
    for (const over of content.querySelectorAll("img.over")) {
      if (strength && !over.src) over.src = over.dataset.src; // the station draws it when it is asked for
      over.style.opacity = strength / 100;
    }
  }

  function tell(text) {
    latest = there = null;
    refill(content, el("p", { class: "gone" }, text));
  }

  function expect(part) {
    latest = part.id;
    setTimeout(() => {
      if (latest !== part.id || there === part.id) return;
      there = null;
      refill(content, el("p", { class: "gone" }, t("loading")));
    }, BLINK_MS);
  }

  async function show(part) {
    latest = part.id;
    const drawn = part.kept === false ? [el("p", { class: "gone" }, t("thinned"))] : await layersOf(part);
    if (latest !== part.id) return;
    if (there !== part.id) zoom.of(part.image);
    there = part.id;
    refill(content, drawn);
    fade();
  }

  const KEYS = {
    h: () => turn(strength ? 0 : wanted),
    "+": () => zoom.by(1),
    "=": () => zoom.by(1),
    "-": () => zoom.by(-1),
    0: () => zoom.fit(),
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // Arrows leaf from part to part elsewhere: they move the photo where it has the focus.
  layers.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way || !zoom.nudge(...way)) return;
    event.preventDefault();
    event.stopPropagation();
  });

  function press(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!KEYS[key]) return;
    event.preventDefault();
    KEYS[key]();
  }

  layers.append(content);
  range.value = strength;
  pictures.splice(0, pictures.length, ...pictures.filter((one) => one.layers.isConnected), { layers, press });
  fade();
  return { node: layers, controls, show, expect, tell };
}

document.addEventListener("keydown", (event) => {
  while (pictures.length && !pictures.at(-1).layers.isConnected) pictures.pop();
  if (!pictures.length || event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPING)) return;
  pictures.at(-1).press(event);
});

async function layersOf(part) {
  const alt = t("partPicture", { label: nameOf(part) });
  const source = pictureOf(part, "heat");
  const heat = el("img", { "data-src": source, src: strength > 0 && source, alt: "", class: "over", draggable: "false" });
  // The file itself, but where a browser shows it dark or not at all: the station draws 16 bits and TIFF as PNG, and any
  // other that this one turns out not to show, an arithmetic JPEG for one.
  for (const kind of ["photo", "photo?drawn=true"]) {
    const photo = el("img", { src: pictureOf(part, kind), alt, draggable: "false" });
    if (await decoded(photo, ...(strength ? [heat] : []))) return [photo, heat, outlines(part)];
  }
  return [el("p", { class: "gone" }, t("noPicture"))];
}

function decoded(...images) {
  const patience = new Promise((wake) => setTimeout(wake, PATIENCE_MS, true));
  const there = Promise.all(images.map((image) => image.decode())).then(
    () => true,
    () => false,
  );
  return Promise.race([there, patience]);
}

let masks = 0;

// Twice, light upon dark: it stands out from any photo. Around a place and never on it: a scratch is no wider than a line.
function outlines(part) {
  const { width, height } = part.image;
  const rings = part.regions.map((region) => region.polygon.map((point) => point.map((at) => at + 0.5).join()).join(" "));
  const drawn = (kind) => rings.map((points) => svg("polygon", { points, class: kind }));
  const id = `around-${(masks += 1)}`;
  const whole = { x: -width, y: -height, width: 3 * width, height: 3 * height };
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "over outlines", "aria-hidden": "true" },
    svg("mask", { id, maskUnits: "userSpaceOnUse", ...whole }, svg("rect", { ...whole, class: "shown" }), drawn("place")),
    svg("g", { mask: `url(#${id})` }, drawn("under"), drawn("line")),
  );
}

// A part's photo with its heat and outlines over it, and the slider for how strong they are.

import { pictureOf } from "./api.js";
import { el, field, refill, svg } from "./dom.js";
import { nameOf, t } from "./strings.js";

const PATIENCE_MS = 1500; // a verdict does not wait longer than this for its picture
const BLINK_MS = 120; // a picture that comes sooner takes the old one's place without a word between them

let strength = 60; // % and the same in every view

/** `{node, slider, show, expect}`; show(part) resolves when the picture is there, or will not be; expect(part) takes away
 * the picture of any other part, for a view that tells of this one already. */
export function picture() {
  const layers = el("div", { class: "layers" });
  const range = el("input", { type: "range", min: 0, max: 100, value: strength, oninput: fade });
  const percent = el("output", {});
  let latest = null;
  let there = null;

  function fade() {
    strength = Number(range.value);
    percent.textContent = t("heatAt", { percent: strength });
    for (const over of layers.querySelectorAll(".over")) over.style.opacity = strength / 100;
  }

  function expect(part) {
    latest = part.id;
    setTimeout(() => {
      if (latest !== part.id || there === part.id) return;
      there = null;
      refill(layers, el("p", { class: "gone" }, t("loading")));
    }, BLINK_MS);
  }

  async function show(part) {
    latest = part.id;
    const drawn = part.kept === false ? [el("p", { class: "gone" }, t("thinned"))] : await layersOf(part);
    if (latest !== part.id) return;
    there = part.id;
    refill(layers, drawn);
    fade();
  }

  fade();
  return { node: layers, slider: el("div", { class: "slider" }, field(t("heat"), range), percent), show, expect };
}

async function layersOf(part) {
  const original = el("img", { src: pictureOf(part, "photo"), alt: t("partPicture", { label: nameOf(part) }) });
  const heat = el("img", { src: pictureOf(part, "heat"), alt: "", class: "over" });
  if (await decoded(original, heat)) return [original, heat, outlines(part)];
  // A browser cannot show every file that can be inspected, TIFF for one; the overlay is always a JPEG.
  const overlay = el("img", { src: pictureOf(part, "overlay"), alt: original.alt });
  return (await decoded(overlay)) ? [overlay] : [el("p", { class: "gone" }, t("noPicture"))];
}

function decoded(...images) {
  const patience = new Promise((wake) => setTimeout(wake, PATIENCE_MS, true));
  return Promise.race([
    Promise.all(images.map((image) => image.decode())).then(
      () => true,
      () => false,
    ),
    patience,
  ]);
}

// Twice, light upon dark: it stands out from any photo.
function outlines(part) {
  const { width, height } = part.image;
  const rings = part.regions.map((region) => region.polygon.map((point) => point.join()).join(" "));
  const drawn = ["under", "line"].map((kind) => rings.map((points) => svg("polygon", { points, class: kind })));
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "over outlines", "aria-hidden": "true" }, drawn);
}

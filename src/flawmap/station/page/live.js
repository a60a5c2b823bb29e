// The line as it runs: the last part, the last twenty, and the shift's counters.

import { send } from "./api.js";
import { busy, button, el, refill, symbol } from "./dom.js";
import { facts, thumbnail, verdictPanel } from "./parts.js";
import { picture } from "./picture.js";
import { LAST, onEach, store } from "./store.js";
import { hour, number, t } from "./strings.js";

export function live(root) {
  const shown = picture();
  const side = el("section", { class: "side" });
  const counters = el("section", { class: "counters" });
  const strip = el("section", { class: "strip", "aria-label": t("lastParts") });
  const hold = el("div", { class: "hold" });
  let held = null;

  const chosen = () => (held && store.parts.find((part) => part.id === held)) || store.parts[0];

  async function drawPart() {
    const part = chosen();
    if (!part) return;
    await shown.show(part);
    if (chosen().id !== part.id) return;
    refill(side, verdictPanel(part), facts(part));
    refill(hold, held && [el("span", {}, t("held")), button(t("backToLive"), () => holdAt(null), { class: "primary" })]);
  }

  function drawStrip() {
    const thumbs = store.parts.map((part) => thumbnail(part, () => holdAt(part.id), part.id === chosen().id));
    const blank = Array.from({ length: LAST - thumbs.length }, () => el("span", { class: "thumb blank" }));
    refill(strip, thumbs, blank);
  }

  function drawCounters() {
    const counts = store.station?.counts;
    if (!counts) return;
    const figures = [
      ["pass", counts.pass, "passed"],
      ["reject", counts.reject, "rejected"],
      ["doubt", counts.doubt, "doubtful"],
      [null, counts.per_hour, "perHour"],
    ];
    counters.replaceChildren(
      el("h2", {}, t("thisShift", { time: hour(counts.since) })),
      ...figures.map(([verdict, count, text]) => el("p", { class: "counter" }, verdict && symbol(verdict), el("b", {}, number(count)), el("span", {}, t(text)))),
    );
  }

  function holdAt(id) {
    held = id;
    drawPart();
    drawStrip();
  }

  function draw() {
    if (!store.parts.length) refill(shown.node, el("p", { class: "gone" }, t("waiting")));
    drawPart();
    drawStrip();
    drawCounters();
  }

  root.append(
    el(
      "div",
      { class: "live" },
      el("section", { class: "stage" }, shown.node, el("div", { class: "under-stage" }, shown.slider, hold, tryOut())),
      el("div", { class: "column" }, side, counters),
      strip,
    ),
  );
  draw();
  return onEach({ part: draw, changed: draw, lag: draw, station: drawCounters });
}

/** For whoever sets the station up, and has no camera yet. */
function tryOut() {
  const file = el("input", { type: "file", accept: "image/*", class: "unseen", tabindex: "-1", "aria-hidden": "true", onchange: inspect });
  const open = button(t("tryPhoto"), () => file.click());

  async function inspect() {
    if (file.files.length) await busy(open, () => send("/api/parts", file.files));
    file.value = "";
  }

  return [file, open];
}

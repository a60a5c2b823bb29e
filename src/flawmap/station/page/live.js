// The line as it runs: the last part, the last twenty, and the shift's counters.

import { send } from "./api.js";
import { busy, button, el, refill, symbol } from "./dom.js";
import { IMAGES } from "./files.js";
import { decideButton } from "./look.js";
import { facts, stripOf, verdictPanel } from "./parts.js";
import { picture } from "./picture.js";
import { LAST, may, onEach, store } from "./store.js";
import { hour, number, t } from "./strings.js";
import { testSwitch } from "./testing.js";

export function live(root) {
  const shown = picture();
  const side = el("section", { class: "side" });
  const counters = el("section", { class: "counters" });
  const strip = stripOf(t("lastParts"), (part) => holdAt(part.id));
  const hold = el("div", { class: "hold" });
  let held = null;
  let drawing = false;

  const chosen = () => (held && store.parts.find((part) => part.id === held)) || store.parts[0];

  // One at a time: where parts come faster than their pictures, some are passed over, and none is half shown.
  async function drawPart() {
    if (drawing) return;
    drawing = true;
    for (let part = null; chosen() && chosen() !== part;) {
      part = chosen();
      await shown.show(part);
      if (!held || held === part.id) drawFacts(part);
    }
    drawing = false;
  }

  function drawFacts(part) {
    refill(side, verdictPanel(part), facts(part, !part.test && decideButton(part)));
    refill(
      hold,
      held && [el("span", {}, t("held")), button(t("backToLive"), () => holdAt(null), { class: "primary" })],
    );
  }

  function drawStrip() {
    const blank = Array.from({ length: LAST - store.parts.length }, () => el("span", { class: "thumb blank" }));
    strip.show(store.parts, chosen()?.id, blank);
  }

  function drawCounters() {
    const counts = store.station?.counts;
    if (!counts) return;
    const figures = [
      ["pass", counts.pass, "passed"],
      ["reject", counts.reject, "rejected"],
      ["doubt", counts.doubt, "doubtful"],
      [null, counts.per_hour, "lastHour"],
    ];
    counters.replaceChildren(
      el("h2", {}, t("thisShift", { time: hour(counts.since) })),
      ...figures.map(([verdict, count, text]) =>
        el("p", { class: "counter" }, verdict && symbol(verdict), el("b", {}, number(count)), el("span", {}, t(text))),
      ),
    );
  }

  function holdAt(id) {
    held = id;
    if (chosen()) {
      drawFacts(chosen());
      shown.expect(chosen());
    }
    drawPart();
    drawStrip();
  }

  function draw() {
    if (!store.parts.length) shown.tell(t("waiting"));
    drawPart();
    drawStrip();
    drawCounters();
  }

  root.append(
    el(
      "div",
      { class: "live" },
      el("section", { class: "stage" }, shown.node, el("div", { class: "under-stage" }, shown.controls, hold, tryOut())),
      el("div", { class: "column" }, side, counters),
      strip.node,
    ),
  );
  draw();
  return onEach({ part: draw, changed: draw, lag: draw, station: drawCounters });
}

/** For whoever sets the station up, and has no camera yet. */
function tryOut() {
  const file = el("input", {
    type: "file",
    accept: IMAGES,
    class: "unseen",
    tabindex: "-1",
    "aria-hidden": "true",
    onchange: inspect,
  });
  const open = button(t("tryPhoto"), () => file.click());

  async function inspect() {
    if (file.files.length) await busy(open, () => send("/api/parts", file.files));
    file.value = "";
  }

  return [file, open, may("engineer") && testSwitch()];
}

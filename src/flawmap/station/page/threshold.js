// Where the line between good and defective lies, what moving it does, and the versions it lay in.

import { get, post } from "./api.js";
import { ask, busy, button, el, field, refill, still, symbol, tell } from "./dom.js";
import { digitsOf, histogram } from "./histogram.js";
import { look } from "./look.js";
import { thumbnail } from "./parts.js";
import { may, onEach } from "./store.js";
import { number, percent, score, t } from "./strings.js";
import { versions } from "./versions.js";
import { words } from "./words.js";

const AROUND = 6;
const SETTLED_MS = 200;

export function threshold(root) {
  const plot = el("section", { class: "card plot" });
  const figures = el("section", { class: "figures" });
  const around = el("section", { class: "around" });
  const list = versions();
  let graph = null;
  let data = null;
  let at = 0;
  let loading = 0;

  const written = (value) => score(value, digitsOf(data));

  async function load() {
    const before = data;
    loading += 1;
    try {
      data = await get("/api/threshold");
    } catch (problem) {
      return refill(
        plot,
        el("p", { class: "empty" }, problem.status === 404 || problem.status === 503 ? t("noModel") : problem.message),
      );
    } finally {
      loading -= 1;
    }
    // Whoever moves the line keeps it where it is, unless another model is in use now.
    if (before?.model !== data.model || at === before.threshold) at = data.threshold;
    graph?.end();
    graph = histogram(data, moved);
    refill(
      plot,
      heading(),
      graph.node,
      legend(),
      may("engineer") ? controls() : el("p", { class: "soft" }, t("engineersOnly")),
    );
    go(at);
  }

  const heading = () => [
    el("h1", {}, t("threshold")),
    el("p", { class: "soft" }, t("lineHint"), " ", t("escapeLimits")),
  ];

  function moved(to) {
    at = to;
    drawFigures(nearest(data.curve, at));
    const apply = plot.querySelector(".apply");
    if (apply) {
      apply.textContent = t("apply", { score: written(at) });
      apply.disabled = written(at) === written(data.threshold); // as they are read, they are the same
    }
    settle();
  }

  const settle = still(SETTLED_MS, async () => {
    const asked = at;
    const [exact, parts] = await Promise.all([
      get("/api/threshold/at", { score: asked }),
      get("/api/threshold/around", { score: asked, count: AROUND }),
    ]).catch(() => []);
    if (!exact || asked !== at) return;
    drawFigures(exact);
    const doubtful = (part) => data.doubt > 0 && Math.abs(part.score - asked) <= data.doubt;
    refill(
      around,
      row("below", [...parts.below].reverse(), "pass", doubtful),
      row("above", parts.above, "reject", doubtful),
    );
  });

  function drawFigures(point) {
    const { held_out, decided_good, decided_bad, parts, checked_passes: checked } = data.counts;
    figures.replaceChildren(
      figure(
        "escape",
        escapeAt(point),
        [
          decided_bad ? t("escapeMeans", { n: number(decided_bad) }) : t("nothingDecided"),
          checked ? "" : t("noPassChecked"),
        ].filter(Boolean).join(". "),
        "reject",
      ),
      figure("overkill", percent(point.overkill), t("overkillMeans", { n: number(held_out + decided_good) }), "pass"),
      figure("rejectShare", percent(point.rejected), t("rejectShareMeans", { n: number(parts) }), "all"),
    );
  }

  function controls() {
    const note = el("input", { maxlength: 200 });
    const suggested =
      data.suggested &&
      button(t("useSuggested", { score: written(data.suggested.score) }), () => go(data.suggested.score), {
        title: words(data.suggested.why_code, {}, data.suggested.why),
      });
    return el(
      "div",
      { class: "row controls" },
      suggested,
      button(t("useCurrent", { score: written(data.threshold) }), () => go(data.threshold)),
      field(t("note"), note),
      button("", (event) => apply(note.value, event.currentTarget), { class: "primary apply" }),
      smallest(note),
    );
  }

  /** Specks below this area are no places; like a threshold it is a new version. */
  function smallest(note) {
    const area = el("input", { class: "area", maxlength: 20, value: `${data.smallest} px` });
    const set = button(t("set"), (event) => place(area.value.trim(), note.value, event.currentTarget), {
      class: "set-area",
    });
    return el("div", { class: "row" }, field(t("smallestPlace"), area), set);
  }

  async function place(area, note, control) {
    const { model } = data;
    const name = model.split("@")[0];
    if (!(await ask(t("areaAsk", { area }), [t("areaDetail"), t("applyDetail", { name })], t("set")))) return;
    if (data.model !== model) return tell(t("switchedMeanwhile", { ref: data.model }), true);
    const made = await busy(control, () => post("/api/threshold", { smallest: area, note, use: true, model }));
    if (!made) return;
    tell(t("applied", { ref: made.ref }));
    refresh();
  }

  function go(to) {
    graph.move(to);
    moved(to);
  }

  async function apply(note, control) {
    const to = at;
    const { model } = data;
    const name = model.split("@")[0];
    if (
      !(await ask(
        t("applyAsk", { score: written(to) }),
        [t("fromTo", { from: written(data.threshold), to: written(to) }), t("applyDetail", { name })],
        t("apply", { score: written(to) }),
      ))
    )
      return;
    // Somebody may have switched while the question stood: what was asked is no longer what would be done.
    if (data.model !== model) return tell(t("switchedMeanwhile", { ref: data.model }), true);
    const made = await busy(control, () => post("/api/threshold", { score: to, note, use: true, model }));
    if (!made) return;
    tell(t("applied", { ref: made.ref }));
    refresh();
  }

  // Once, however many events a change brings.
  const refresh = still(100, () => (load(), list.load()));

  root.append(el("div", { class: "threshold" }, plot, figures, around, list.node));
  load();
  list.load();
  // A model that was still being loaded is in use without having been switched to.
  const came = (station) => !data && !loading && station.model && refresh();
  const end = onEach({ model: refresh, lag: refresh, station: came });
  return () => (end(), graph?.end());
}

const figure = (key, value, means, kind) =>
  el(
    "div",
    { class: `figure ${kind}` },
    el("small", { class: "label" }, t(key)),
    el("b", {}, value),
    el("small", { class: "soft" }, means),
  );

/** The sign at the foot of a picture is what was recorded or decided; the mark at its head what the line makes of it. */
const row = (key, parts, verdict, doubtful) =>
  el(
    "div",
    { class: `row-of ${verdict}` },
    el("h2", {}, t(key)),
    el(
      "div",
      { class: "thumbs" },
      parts.length
        ? parts.map((part) =>
            el(
              "figure",
              {},
              thumbnail(part, () => look(part)),
              doubtful(part) && el("span", { class: "mark word" }, symbol("doubt"), t("doubt")),
              el("figcaption", {}, score(part.score)),
            ),
          )
        : el("p", { class: "soft" }, t("none")),
    ),
  );

/** Decided parts alone tell the least that escape can be; 0 of them is not 0 of all. */
function escapeAt({ escape, escape_decided: least }) {
  if (escape !== null) return percent(escape);
  return least ? t("atLeast", { share: percent(least) }) : t("notKnown");
}

const nearest = (curve, at) =>
  curve.reduce((best, point) => (Math.abs(point.score - at) < Math.abs(best.score - at) ? point : best));

const legend = () =>
  el(
    "p",
    { class: "legend soft" },
    [
      ["held_out", "heldOut"],
      ["decided_good", "decidedGood"],
      ["decided_bad", "decidedBad"],
      ["parts", "allParts"],
      ["band", "bandOfDoubt"],
    ].map(([kind, key]) => el("span", {}, el("i", { class: kind }), t(key))),
    el("span", {}, t("roots")),
  );

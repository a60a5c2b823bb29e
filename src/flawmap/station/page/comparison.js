// A trained model against the one in use, on recorded parts, and its promotion.

import { pictureOf, post } from "./api.js";
import { ask, busy, button, el, symbol, tell } from "./dom.js";
import { number, score, t } from "./strings.js";

const PARTS = 100;

/** `changed()` is called when the station is to be asked anew. */
export function comparison(training, changed) {
  const found = training.comparison;
  return el(
    "div",
    {},
    el(
      "div",
      { class: "row" },
      found?.state !== "running" &&
        button(t("compareStart"), (event) => compare(training, changed, event.currentTarget)),
      promotion(training, changed),
    ),
    found && outcome(found),
  );
}

async function compare(training, changed, control) {
  if (await busy(control, () => post(`/api/trainings/${training.id}/compare`, { parts: PARTS, decided_only: false })))
    changed();
}

function promotion(training, changed) {
  if (training.model) return el("p", { class: "tag" }, t("promoted", { ref: training.model }));
  return button(t("promote", { name: training.name }), (event) => promote(training, changed, event.currentTarget), {
    class: "primary",
  });
}

async function promote(training, changed, control) {
  if (
    !(await ask(t("promoteAsk"), [t("promoteDetail", { name: training.name })], t("promote", { name: training.name })))
  )
    return;
  const made = await busy(control, () => post(`/api/trainings/${training.id}/promote`, { use: true, note: "" }));
  if (!made) return;
  tell(t("promoted", { ref: made.ref }));
  changed();
}

function outcome(found) {
  if (found.state === "running")
    return el(
      "p",
      { class: "row" },
      el("progress", { max: found.total || 1, value: found.done }),
      t("comparing", { done: found.done, total: found.total }),
    );
  if (found.state === "failed") return el("p", { class: "wrong" }, found.why);
  return [
    el("p", { class: "soft" }, t("against", { ref: found.against, total: number(found.total) })),
    el(
      "div",
      { class: "figures" },
      figure(number(found.agree), t("agree")),
      figure(number(found.new_rejects), t("newRejects"), "reject"),
      figure(number(found.new_passes), t("newPasses"), "pass"),
      found.decided > 0 &&
        figure(
          `${number(found.right_new)} : ${number(found.right_current)}`,
          `${t("right", { n: number(found.decided) })}: ${t("rightPair", { new: found.right_new, current: found.right_current })}`,
        ),
    ),
    found.parts.length > 0 && [el("h3", {}, t("changes")), el("div", { class: "changes" }, found.parts.map(change))],
  ];
}

const figure = (value, means, kind = "all") =>
  el("div", { class: `figure ${kind}` }, el("b", {}, value), el("small", {}, means));

const change = (part) =>
  el(
    "figure",
    {},
    el("img", { src: pictureOf(part, "thumbnail"), alt: "", loading: "lazy" }),
    el("figcaption", {}, side(part.current), el("span", { class: "then" }, "→"), side(part.new)),
  );

const side = ({ verdict, score: value }) => el("span", {}, symbol(verdict), `${t(verdict)} ${score(value)}`);

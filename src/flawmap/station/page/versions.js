// The versions of the models, which one is in use, and the way back.

import { get, post } from "./api.js";
import { ask, busy, button, el, refill, tell } from "./dom.js";
import { may } from "./store.js";
import { day, score, t } from "./strings.js";
import { whoOf, words } from "./words.js";

// How the station writes down where a version comes from (docs/station-api.md, Models).
const ORIGINS = [
  [/^threshold of (?<ref>.+)$/, "thresholdOf"],
  [/^smallest place of (?<ref>.+)$/, "placeOf"],
  [/^training [0-9a-f]+$/, "fromTraining"],
  [/^copied to the models folder$/, "fromFolder"],
];

function originOf(text) {
  const [pattern, key] = ORIGINS.find(([known]) => known.test(text)) ?? [];
  return key ? t(key, text.match(pattern).groups) : text;
}

export function versions() {
  const node = el("section", { class: "card versions" });

  async function load() {
    const { models, current, previous } = await get("/api/models").catch(() => ({ models: [] }));
    const back =
      may("engineer") &&
      previous &&
      button(t("rollBack", { ref: previous }), (event) => rollBack(current, previous, event.currentTarget), {
        class: "roll-back",
      });
    refill(
      node,
      el("div", { class: "row between" }, el("h2", {}, t("versions")), back),
      models.length ? table(models) : el("p", { class: "soft" }, t("noVersions")),
    );
  }

  const table = (models) =>
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["version", "threshold", "made", "by", "origin"].map((key) =>
              el("th", { class: key === "threshold" && "n" }, t(key)),
            ),
            el("th"),
          ),
        ),
        el(
          "tbody",
          {},
          models.map((model) =>
            el(
              "tr",
              { class: model.current && "current" },
              el("td", {}, el("b", {}, model.ref)),
              el("td", { class: "n" }, score(model.threshold?.score)),
              el("td", {}, day(model.created)),
              el("td", {}, whoOf(model.by)),
              el("td", {}, model.usable && !model.why ? originOf(model.origin) : words(model.why_code, {}, model.why)),
              el("td", {}, action(model)),
            ),
          ),
        ),
      ),
    );

  function action(model) {
    if (model.current) return el("b", { class: "tag" }, t("current"));
    return may("engineer") && model.usable && button(t("use"), (event) => use(model.ref, event.currentTarget));
  }

  async function use(ref, control) {
    if (await ask(t("useAsk", { ref }), [], t("use")))
      switched(await busy(control, () => post(`/api/models/${ref}/use`)));
  }

  async function rollBack(from, ref, control) {
    if (await ask(t("rollBackAsk", { ref }), [t("rollBackDetail", { from })], t("rollBack", { ref })))
      switched(await busy(control, () => post("/api/models/rollback")));
  }

  function switched(model) {
    if (!model) return;
    tell(t("applied", { ref: model.ref }));
    load();
  }

  return { node, load };
}

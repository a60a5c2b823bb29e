// One part large, over whatever is shown, and what somebody says it is: any part, also one that passed.

import { post } from "./api.js";
import { busy, button, el, field, refill, say, symbol } from "./dom.js";
import { facts, verdictPanel } from "./parts.js";
import { picture } from "./picture.js";
import { takeChange } from "./store.js";
import { nameOf, t } from "./strings.js";

const NOTE = 1000; // letters, as many as the station takes

/** Opens a part large, to be decided; `changed(part)` is called after each decision. */
export const decideButton = (part, changed) =>
  button(t("decideThis"), () => look(part, changed), { class: "decide-this" });

export function look(part, changed = () => {}) {
  const shown = picture();
  const told = el("div", { class: "told-of" });
  const note = el("input", { maxlength: NOTE, autocomplete: "off", onkeydown: stay });
  const choices = el("div", { class: "deciding" });
  const dialog = el(
    "dialog",
    { class: "look", onclose: () => dialog.remove(), "aria-label": t("part", { label: nameOf(part) }) },
    el("section", { class: "stage" }, shown.node, el("div", { class: "under-stage" }, shown.controls)),
    el(
      "form",
      { method: "dialog" },
      told,
      el(
        "div",
        { class: "say" },
        !part.test && [field(t("noteOptional"), note), choices],
        el("button", { class: "primary" }, t("close")),
      ),
    ),
  );

  function draw() {
    refill(told, verdictPanel(part), facts(part));
    refill(
      choices,
      ["pass", "reject"].map(choice),
      part.decision && button(t("takeBack"), (event) => decide(null, event.currentTarget), { class: "back" }),
    );
  }

  const choice = (verdict) =>
    button(
      [symbol(verdict), t(verdict === "pass" ? "markGood" : "markDefective")],
      (event) => decide(verdict, event.currentTarget),
      { class: `choice ${verdict}`, "aria-pressed": String(part.decision?.verdict === verdict), "data-mark": verdict },
    );

  async function decide(verdict, control) {
    const asked = { verdict, note: verdict ? note.value.trim() : "" };
    const decided = await busy(control, () => post(`/api/parts/${part.id}/decisions`, asked));
    if (!decided) return;
    part = decided;
    note.value = "";
    takeChange(decided);
    draw();
    say(t(verdict ? "decided" : "takenBack", { label: nameOf(part), verdict: verdict && t(verdict) }));
    choices.querySelector("button")?.focus({ preventScroll: true });
    changed(decided);
  }

  /** Enter ends a line, and neither decides nor closes. */
  function stay(event) {
    if (event.key === "Enter") event.preventDefault();
  }

  draw();
  document.body.append(dialog);
  shown.show(part);
  dialog.showModal();
}

// One part large, over whatever is shown.

import { el } from "./dom.js";
import { facts, verdictPanel } from "./parts.js";
import { picture } from "./picture.js";
import { nameOf, t } from "./strings.js";

export function look(part) {
  const shown = picture();
  const dialog = el(
    "dialog",
    { class: "look", onclose: () => dialog.remove(), "aria-label": t("part", { label: nameOf(part) }) },
    el("section", { class: "stage" }, shown.node, el("div", { class: "under-stage" }, shown.slider)),
    el("form", { method: "dialog" }, verdictPanel(part), facts(part), el("button", { class: "primary" }, t("close"))),
  );
  document.body.append(dialog);
  shown.show(part);
  dialog.showModal();
}

// A shift or a lot on paper: figures, models, and every part that was not simply good.

import { get, queryOf } from "./api.js";
import { busy, button, el, field, refill, select } from "./dom.js";
import { oneFile } from "./onefile.js";
import { sheet } from "./sheet.js";
import { t } from "./strings.js";
import { localTime, zoned } from "./times.js";

export function report(root) {
  const paper = el("article", { class: "paper" });
  const today = new Date();
  const from = el("input", {
    type: "datetime-local",
    value: localTime(new Date(today.getFullYear(), today.getMonth(), today.getDate())),
  });
  const to = el("input", { type: "datetime-local", value: localTime(new Date(today.getTime() + 60000)) });
  const lot = el("input", { maxlength: 100 });
  const what = select(
    [
      ["shift", t("runningShift")],
      ["period", t("period")],
      ["lot", t("ofLot")],
    ],
    "shift",
    { onchange: choose },
  );
  const show = el("button", { class: "primary" }, t("show"));
  const all = el("a", { class: "button" }, t("allTheParts"));
  const csv = el("a", { class: "button", download: "records.csv" }, t("csv"));
  const whichPeriod = [field(t("from"), from), field(t("to"), to)];
  const whichLot = field(t("lot"), lot);

  function choose() {
    for (const each of whichPeriod) each.hidden = what.value !== "period";
    whichLot.hidden = what.value !== "lot";
    lot.required = what.value === "lot";
  }

  function query() {
    if (what.value === "lot") return { lot: lot.value.trim() };
    return what.value === "period" ? { from: zoned(from.value), to: zoned(to.value) } : {};
  }

  async function load(event) {
    event?.preventDefault();
    const found = await busy(show, () => get("/api/report", query()));
    if (!found) return;
    const meant = what.value === "shift" ? { from: found.from, to: found.to } : query();
    csv.href = `/api/records.csv${queryOf(meant)}`;
    all.href = `#parts${queryOf(meant)}`;
    refill(paper, sheet(found, what.value, () => load()));
  }

  async function print(event) {
    await busy(event.currentTarget, loaded);
    window.print();
  }

  // What lies below the fold has not been fetched yet, and would be blank on paper.
  function loaded() {
    const pictures = [...paper.querySelectorAll("img")];
    for (const picture of pictures) picture.loading = "eager";
    return Promise.allSettled(pictures.map((picture) => picture.decode()));
  }

  const bar = el(
    "form",
    { class: "row bar", onsubmit: load },
    field(t("what"), what),
    whichPeriod,
    whichLot,
    show,
    el("span", { class: "gap" }),
    button(t("print"), print),
    button(t("save"), (event) => busy(event.currentTarget, () => oneFile(paper))),
    csv,
    all,
  );
  root.append(el("div", { class: "report" }, bar, paper));
  choose();
  load();
}

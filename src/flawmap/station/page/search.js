// Any recorded part: found by its number or a piece of it, by time, lot and verdict, a page at a time.

import { get, pictureOf } from "./api.js";
import { busy, button, el, field, refill, select, symbol } from "./dom.js";
import { look } from "./look.js";
import { onEach } from "./store.js";
import { day, nameOf, number, score, t } from "./strings.js";
import { localTime, zoned } from "./times.js";
import { whoOf } from "./words.js";

const PAGE = 24;
const MATCHES = [
  ["begins", "matchBegins"],
  ["contains", "matchContains"],
  ["exactly", "matchExactly"],
];
const ASKED = { begins: "label_begins", contains: "label_contains", exactly: "label" }; // as the station knows them
// What is asked of a part's verdict, and of what it is after decisions.
const KINDS = {
  all: {},
  pass: { verdict: "pass" },
  reject: { verdict: "reject" },
  doubt: { verdict: "doubt" },
  open: { verdict: "reject,doubt", decided: false },
  escaped: { verdict: "pass", final: "reject" },
  overkill: { verdict: "reject", final: "pass" },
  test: { test: true },
};
const WORDS = {
  all: "kindAll",
  pass: "passed",
  reject: "rejected",
  doubt: "doubtful",
  open: "kindOpen",
  escaped: "kindEscaped",
  overkill: "kindOverkill",
  test: "kindTest",
};
const BY_SEQ = /^#(\d{1,18})$/; // what a part without a number is called

export function search(root, given) {
  const label = el("input", { maxlength: 100, autocomplete: "off", spellcheck: "false", value: given.label ?? "" });
  const match = select(
    MATCHES.map(([name, key]) => [name, t(key)]),
    given.match ?? "begins",
  );
  const time = (name) =>
    el("input", { type: "datetime-local", value: given[name] ? localTime(new Date(given[name])) : "" });
  const [from, to] = [time("from"), time("to")];
  const lot = el("input", { maxlength: 100, autocomplete: "off", value: given.lot ?? "" });
  const kind = select(
    Object.keys(KINDS).map((name) => [name, t(WORDS[name])]),
    given.kind ?? "all",
  );
  const find = el("button", { class: "primary" }, t("find"));
  const found = el("section", { class: "found", "aria-live": "polite" });
  const pages = el("div", { class: "row between pages" });
  let befores = []; // where the pages before this one begin
  let after = null;
  let shown = [];
  let asking = 0;

  const asked = () => ({
    label: label.value.trim(),
    match: match.value,
    from: zoned(from.value),
    to: zoned(to.value),
    lot: lot.value.trim(),
    kind: kind.value,
  });

  /** As the station is asked. */
  function query({ label, match, from, to, lot, kind }) {
    const bySeq = label.match(BY_SEQ)?.[1];
    const named = bySeq ? { seq: bySeq } : { [ASKED[match]]: label };
    return { ...named, from, to, lot, ...KINDS[kind], limit: PAGE, after, count: true };
  }

  async function load() {
    const now = asked();
    // The address keeps what was asked, so that a reload or a link shows it again.
    const said = Object.entries(now).filter(([name, value]) => value && !(name in USUAL && value === USUAL[name]));
    history.replaceState(null, "", said.length ? `#parts?${new URLSearchParams(said)}` : "#parts");
    // Never off meanwhile: a scanner sends its Enter at once. The last question is answered.
    const mine = (asking += 1);
    const answer = await busy({}, () => get("/api/parts", query(now)));
    if (answer && mine === asking) draw(answer, now);
  }

  function draw({ parts, next, count }, { label }) {
    shown = parts;
    const first = befores.length * PAGE;
    const where = { from: number(first + 1), to: number(first + parts.length), n: number(count) };
    refill(
      found,
      parts.length
        ? el("ol", { class: "rows" }, parts.map(row))
        : el("p", { class: "empty" }, el("b", {}, t("nothingFound")), label && el("span", {}, t("nothingFoundHint"))),
    );
    const page = (key, onclick, there) => button(t(key), onclick, { disabled: !there });
    refill(
      pages,
      page("newer", () => turn(befores.pop()), befores.length),
      el("p", { role: "status" }, parts.length > 0 && t("pageOf", where)),
      page("older", () => (befores.push(after), turn(next)), next),
    );
  }

  function turn(to) {
    after = to;
    load();
    root.scrollIntoView();
  }

  const row = (part) => el("li", {}, entry(part));

  const entry = (part) =>
    button(
      [
        el("span", { class: "small-picture" }, part.kept !== false && thumbnail(part)),
        el("span", { class: `word ${part.verdict}` }, symbol(part.verdict), t(part.verdict)),
        el("b", { class: "number" }, nameOf(part)),
        el("span", {}, day(part.time)),
        el("span", { class: "soft" }, origin(part)),
        el("span", { class: "n" }, score(part.score)),
        el(
          "span",
          { class: "after" },
          part.decision && [t("decidedAs"), " ", symbol(part.decision.verdict), " ", t(part.decision.verdict)],
        ),
      ],
      () => look(part),
      { class: "entry", "data-id": part.id },
    );

  /** Who decides sees it in the list, and the place in the list stays. */
  function change(part) {
    const place = shown.findIndex((one) => one.id === part.id);
    if (place < 0) return;
    shown[place] = part;
    const before = found.querySelector(`[data-id="${part.id}"]`);
    const now = entry(part);
    before?.replaceWith(now);
  }

  function start(event) {
    event?.preventDefault();
    befores = [];
    after = null;
    load();
  }

  root.append(
    el(
      "div",
      { class: "search" },
      el(
        "form",
        { class: "card row", onsubmit: start },
        field(t("serial"), label),
        field(t("match"), match),
        field(t("from"), from),
        field(t("to"), to),
        field(t("lot"), lot),
        field(t("kind"), kind),
        find,
      ),
      found,
      pages,
    ),
  );
  for (const control of [match, kind]) control.addEventListener("change", () => start());
  start();
  return onEach({ changed: change });
}

const thumbnail = (part) => el("img", { src: pictureOf(part, "thumbnail"), alt: "", loading: "lazy" });

const origin = (part) =>
  [part.lot && `${t("lot")} ${part.lot}`, part.camera && whoOf(part.camera)].filter(Boolean).join(" · ");

const USUAL = { match: "begins", kind: "all" };

// Doubtful and rejected parts that nobody decided, one after the other. A decision is a record of its own; taking it
// back is another one.

import { get, post } from "./api.js";
import { busy, button, el, field, refill, symbol, tell } from "./dom.js";
import { facts, stripOf } from "./parts.js";
import { picture } from "./picture.js";
import { onEach, takeChange } from "./store.js";
import { nameOf, number, t } from "./strings.js";

const PAGE = 50;
const NOTE = 1000; // letters, as many as the station takes
const other = (verdict) => (verdict === "pass" ? "reject" : "pass");
const said = (part) => (part.defective ? "reject" : "pass"); // what the threshold says, also of a doubtful part

export function review(root) {
  const shown = picture();
  const count = el("p", { class: "count", role: "status" });
  const side = el("div", { class: "side" });
  const doing = el("div", { class: "side" });
  // The field is never drawn anew: what is typed must not land on the keys that decide.
  const note = el("input", { maxlength: NOTE, autocomplete: "off", oninput: keepNote, onkeydown: leaveNote });
  const notes = new Map(); // what was typed, by the id of the part it is about, until that is decided
  const strip = stripOf(t("review"), (part) => move(queue.findIndex((each) => each.id === part.id) - at));
  const pane = el("div", { class: "live review", tabindex: "-1" });
  const all = el("div", { class: "empty" });
  const queue = [];
  let at = 0;
  let more = null;
  let rest = 0; // undecided parts beyond the queue
  let done = null; // the part decided last, to take back

  const open = () => queue.filter((part) => !part.decision).length;

  async function load() {
    const { parts, next, count: all } = await get("/api/parts", {
      verdict: "doubt,reject",
      decided: false,
      order: "oldest",
      limit: PAGE,
      after: more,
      count: true,
    });
    more = next;
    for (const part of parts) if (!queue.some((known) => known.id === part.id)) queue.push(part);
    rest = more ? Math.max(0, all - open()) : 0;
    draw();
  }

  function draw() {
    const part = queue[at];
    pane.hidden = !part;
    all.hidden = Boolean(part);
    if (!part) return refill(all, el("b", {}, t("allReviewed")), el("span", {}, t("allReviewedHint")), takeBack());
    shown.expect(part);
    shown.show(part);
    refill(side, head(part), facts(part));
    refill(doing, choices(part), takeBack());
    const typed = notes.get(part.id) ?? "";
    if (note.value !== typed) note.value = typed;
    drawQueue();
    const { node } = strip;
    node.scrollLeft = node.children[at].offsetLeft - node.clientWidth / 2;
  }

  function drawQueue() {
    count.textContent = t("toReview", { n: number(open() + rest) });
    strip.show(queue, queue[at].id);
  }

  const head = (part) =>
    el(
      "div",
      { class: `verdict small ${part.verdict}` },
      symbol(part.verdict),
      el("strong", {}, t(part.verdict)),
      part.verdict === "doubt" && el("span", {}, t("leans", { verdict: t(said(part)) })),
    );

  const choices = (part) =>
    el("div", { class: "choices" }, choice(part, "confirm", said(part)), choice(part, "overrule", other(said(part))));

  const choice = (part, key, verdict) =>
    button(
      [symbol(verdict), el("span", {}, el("b", {}, t(key)), t(verdict))],
      (event) => decide(part, verdict, event.currentTarget),
      { class: `choice ${verdict}`, "data-choice": key },
    );

  const takeBack = () =>
    el(
      "div",
      { class: "take-back" },
      done &&
        button(t("undo", { label: nameOf(done) }), (event) => undo(event.currentTarget)),
    );

  async function decide(part, verdict, control) {
    const decided = await say(part, { verdict, note: note.value.trim() }, control);
    if (!decided) return;
    notes.delete(part.id);
    done = decided;
    await forward();
    draw();
    tell(t("decided", { label: nameOf(decided), verdict: t(verdict) }));
    pane.focus({ preventScroll: true });
  }

  /** The part decided last is undecided again, and shown. */
  async function undo(control) {
    const { note: typed } = done.decision;
    const open = await say(done, { verdict: null }, control);
    if (!open) return;
    done = null;
    if (!notes.get(open.id)) notes.set(open.id, typed);
    at = queue.findIndex((part) => part.id === open.id);
    draw();
    tell(t("takenBack", { label: nameOf(open) }));
    pane.focus({ preventScroll: true });
  }

  async function say(part, decision, control) {
    const changed = await busy(control, () => post(`/api/parts/${part.id}/decisions`, decision));
    if (!changed) return null;
    put(changed);
    takeChange(changed);
    return changed;
  }

  /** To the next part nobody decided; when the last is done, the queue is empty again. */
  async function forward() {
    const next = queue.findIndex((part, index) => index > at && !part.decision);
    if (next >= 0) at = next;
    else if (open()) at = queue.findIndex((part) => !part.decision);
    else if (more) await load().then(forward);
    else at = queue.length;
  }

  function move(by) {
    at = Math.max(0, Math.min(queue.length - 1, at + by));
    draw();
  }

  function put(part) {
    const known = queue.findIndex((each) => each.id === part.id);
    if (known >= 0) queue[known] = part;
    return known >= 0;
  }

  function arrive(part) {
    if (part.verdict === "pass" || part.decision || put(part)) return;
    if (more) rest += 1;
    else queue.push(part);
    // What is being looked at is left alone: a button must not move from under a finger.
    if (pane.hidden) draw();
    else drawQueue();
  }

  function change(part) {
    if (put(part)) return draw();
    if (!more || part.verdict === "pass") return;
    const [before, now] = [-2, -1].map((place) => (part.decisions.at(place)?.verdict ? 0 : 1));
    rest += now - before;
    drawQueue();
  }

  function keepNote() {
    notes.set(queue[at].id, note.value);
  }

  /** Enter only leaves the field: who ends a line has decided nothing yet. */
  function leaveNote(event) {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    pane.focus({ preventScroll: true });
  }

  function press(event) {
    if (event.target.closest("input, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
    const onControl = event.target.closest("button, a") && ["Enter", " "].includes(event.key);
    const act = !onControl && KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.repeat) return;
    event.preventDefault();
    act();
  }

  const click = (selector) => (pane.hidden ? all : doing).querySelector(selector)?.click();
  const KEYS = {
    Enter: () => click("[data-choice=confirm]"),
    " ": () => click("[data-choice=confirm]"),
    x: () => click("[data-choice=overrule]"),
    u: () => click(".take-back button"),
    n: () => note.focus({ preventScroll: true }),
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
  };

  const arrows = [
    button("‹", () => move(-1), { "aria-label": t("previous"), class: "arrow" }),
    button("›", () => move(1), { "aria-label": t("next"), class: "arrow" }),
  ];
  pane.append(
    el("section", { class: "stage" }, shown.node, el("div", { class: "under-stage" }, arrows, shown.controls, count)),
    el(
      "div",
      { class: "column" },
      side,
      field(t("noteOptional"), note),
      doing,
      el("p", { class: "keys soft" }, t("keys")),
    ),
    strip.node,
  );
  all.hidden = pane.hidden = true;
  root.append(pane, all);
  document.addEventListener("keydown", press);
  busy(count, load).then(() => pane.focus({ preventScroll: true }));
  const end = onEach({ part: arrive, changed: change, lag: () => ((more = null), load()) });
  return () => (end(), document.removeEventListener("keydown", press));
}

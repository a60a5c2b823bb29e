// Pieces that several views show of a part.

import { pictureOf } from "./api.js";
import { button, el, symbol } from "./dom.js";
import { clock, nameOf, number, percent, score, t } from "./strings.js";
import { remarkOf, whoOf, words } from "./words.js";

/** The huge word, its sign and colour. */
export const verdictPanel = (part) =>
  el(
    "div",
    { class: part.test ? `verdict ${part.verdict} trial` : `verdict ${part.verdict}` },
    part.test && el("b", { class: "trial-tag" }, t("test")),
    symbol(part.verdict),
    el("strong", {}, t(part.verdict)),
  );

/** Where the score lies from 0 to 1, with the threshold and the band of doubt. */
export function scale(part) {
  const bar = el("div", { class: `scale ${part.verdict}`, "aria-hidden": "true" }, el("i"), el("s"), el("u"));
  const [fill, band, line] = bar.children;
  const span = Math.max(1, part.score, part.threshold);
  const at = (value) => `${Math.max(0, Math.min(100, (100 * value) / span))}%`;
  fill.style.width = at(part.score);
  band.style.left = at(part.threshold - part.doubt);
  band.style.width = at(2 * part.doubt);
  line.style.left = at(part.threshold);
  return bar;
}

/** action: a control that stands beside what is told. */
export function facts(part, action) {
  const places = part.regions.length;
  const found = [
    places && t(places === 1 ? "region" : "regions", { n: places }),
    !places && part.defective && part.smallest > 1 && t("noPlace", { n: number(part.smallest) }),
    part.p_value !== null && rarity(part),
  ].filter(Boolean);
  const names = [part.lot && `${t("lot")} ${part.lot}`, part.camera && whoOf(part.camera), part.model.ref];
  return el(
    "div",
    { class: "facts" },
    el(
      "h1",
      {},
      el("span", {}, t("part", { label: nameOf(part) })),
      el("time", { datetime: part.time }, clock(part.time)),
    ),
    el("p", {}, t("scoreOf", { score: score(part.score), threshold: score(part.threshold) })),
    scale(part),
    part.unlike?.length > 0 && el("p", { class: "unlike" }, el("b", {}, t("unlike")), " ", unlikeIn(part)),
    part.remarks?.length > 0 && el("p", { class: "unlike remarks" }, el("b", {}, t("remarks")), " ", part.remarks.map(remarkOf).join("; ")),
    found.length > 0 && el("p", { class: "soft" }, found.join(" · ")),
    el("div", { class: "with-action" }, el("p", { class: "soft names" }, names.filter(Boolean).join(" · ")), action),
    part.decision &&
      el("p", { class: `decision ${part.decision.verdict}` }, symbol(part.decision.verdict), el("span", {}, decisionLine(part))),
  );
}

const UNLIKE = 2; // ways that are told: who stands at a line has one look

/** In what a part is unlike the good ones: light and position before shapes, which say less to whoever can act. */
const unlikeIn = ({ unlike }) =>
  [...unlike]
    .sort((one, other) => one.code.includes("codes") - other.code.includes("codes"))
    .slice(0, UNLIKE)
    .map(({ code, text }) => words(code, {}, text).replace(t("thanMost"), ""))
    .join(", ");

/** Among n good parts the lowest share that can be told is 1 in n + 1: then all of them scored lower, no more. */
function rarity({ p_value: share, good_parts: count }) {
  if (count && share * (count + 1) < 1.5) return t(count === 1 ? "higherThanOne" : "higherThanAll", { n: number(count) });
  return t("asRare", { share: percent(share) });
}

export const decisionLine = ({ decision }) =>
  t(decision.verdict === "pass" ? "decidedPass" : "decidedReject", { who: whoOf(decision.who) }) +
  (decision.note ? ` – ${decision.note}` : "");

/** A row of small pictures; `{node, show}`. What is there already stays as it is, so that nothing flickers. */
export function stripOf(label, tap) {
  const node = el("section", { class: "strip", "aria-label": label });
  let known = new Map();

  function show(parts, current, blank = []) {
    const focused = document.activeElement;
    const before = known;
    known = new Map(parts.map((part) => [part.id, again(before.get(part.id), part)]));
    for (const [id, { thumb }] of known) thumb.setAttribute("aria-current", String(id === current));
    node.replaceChildren(...[...known.values()].map(({ thumb }) => thumb), ...blank);
    if (node.contains(focused)) focused.focus({ preventScroll: true });
  }

  const again = (known, part) =>
    known?.part.final === part.final && known.part.kept === part.kept
      ? known
      : { part, thumb: thumbnail(part, () => tap(part)) };

  return { node, show };
}

/** A small picture to tap. A part whose picture is not kept shows its sign alone. */
export const thumbnail = (part, onclick) =>
  button(
    part.kept === false
      ? symbol(part.final)
      : [el("img", { src: pictureOf(part, "thumbnail"), alt: "", loading: "lazy" }), symbol(part.final)],
    onclick,
    {
      class: part.test ? `thumb ${part.final} trial` : `thumb ${part.final}`,
      "aria-label": `${t("part", { label: nameOf(part) })}: ${t(part.final)}${part.test ? ` (${t("test")})` : ""}`,
      title: `${nameOf(part)} · ${score(part.score)}`,
    },
  );

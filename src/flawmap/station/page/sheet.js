// The report itself, as elements; onefile.js saves the same.

import { pictureOf } from "./api.js";
import { el, svg, symbol } from "./dom.js";
import { decideButton } from "./look.js";
import { decisionLine, scale } from "./parts.js";
import { promiseWords } from "./promise.js";
import { clock, day, hour, nameOf, number, percent, score, t } from "./strings.js";
import { whoOf } from "./words.js";

/** kind: `shift`, `lot` or `period`; decided() is called after a part of it was decided. */
export function sheet(report, kind, decided) {
  const { counts } = report;
  const head = [
    el("h1", {}, titleOf(report, kind)),
    el("p", { class: "soft" }, t("madeBy", { station: report.station, time: day(report.made), who: whoOf(report.by) })),
  ];
  if (!counts.inspected) return [...head, el("p", { class: "empty" }, t(kind === "lot" ? "noReportLot" : "noReport", report))];
  return [
    ...head,
    figures(report),
    el(
      "table",
      { class: "lines" },
      line(t("scores"), scoresOf(report.scores)),
      line(t("time"), timesOf(report.durations_ms)),
    ),
    el("h2", {}, t("hours")),
    hours(report.hours),
    el("h2", {}, t("modelsUsed")),
    models(report.models),
    report.models.map(promiseOf),
    changes(report),
    el("h2", {}, t("partsShown")),
    report.truncated && el("p", { class: "soft" }, t("truncated", { n: report.parts.length })),
    report.parts.length ? report.parts.map((part) => partOf(part, decided)) : el("p", { class: "soft" }, t("noParts")),
    el(
      "p",
      { class: "soft chain" },
      t("chain", { first: report.chain.first_seq, last: report.chain.last_seq, head: report.chain.head }),
    ),
  ]
    .flat()
    .filter(Boolean);
}

function titleOf(report, kind) {
  if (kind === "lot") return t("titleLot", { lot: report.lot });
  return kind === "shift"
    ? t("titleShift", { time: day(report.from) })
    : t("titlePeriod", { from: day(report.from), to: day(report.to) });
}

const figure = (kind, label, value, means) =>
  el(
    "div",
    { class: `figure ${kind}` },
    el("small", { class: "label" }, !kind.startsWith("all") && symbol(kind), label),
    el("b", {}, value),
    el("small", { class: "soft" }, means),
  );

/** [figure, what it is of]: without a check of passed parts, escape is not known, and 0 would be a promise. */
export function escapeWords({ passed, checked, escaped, caught, share }) {
  if (!passed) return ["–", t("nothingPassed")];
  if (!checked) return [t("notKnown"), t("escapeUnchecked", { passed: number(passed) })];
  const defective = number(escaped + caught);
  const found = t("escapeFound", { escaped: number(escaped), defective });
  return [percent(share), `${found} ${t("escapeChecked", { checked: number(checked), passed: number(passed) })}`];
}

function figures({ counts, shares, escape }) {
  const [share, means] = escapeWords(escape);
  return el(
    "div",
    { class: "figures" },
    figure(
      "all",
      t("inspected"),
      number(counts.inspected),
      `${t("overruled")}: ${number(counts.overruled)} ${t("ofDecided", { n: number(counts.decided) })}`,
    ),
    figure("pass", t("passed"), number(counts.pass), t("afterReview", { n: number(counts.final_pass) })),
    figure(
      "reject",
      t("rejected"),
      number(counts.reject),
      `${t("share", { share: percent(shares.reject, 2) })} · ${t("afterReview", { n: number(counts.final_reject) })}`,
    ),
    figure("doubt", t("doubtful"), number(counts.doubt), t("openDoubts", { n: number(counts.undecided_doubt) })),
    figure(escape.checked ? "all escape" : "all escape unknown", t("escape"), share, means),
  );
}

const line = (name, value) => el("tr", {}, el("th", {}, name), el("td", {}, value));

const scoresOf = ({ median, p95, highest }) =>
  t("scoresLine", { median: score(median), p95: score(p95), highest: score(highest) });

const timesOf = ({ median, p99 }) => t("timeLine", { median: number(median ?? 0, 1), p99: number(p99 ?? 0, 1) });

const VERDICTS = ["pass", "reject", "doubt"];

function hours(rows) {
  const most = Math.max(1, ...rows.map((row) => row.pass + row.reject + row.doubt));
  return el(
    "table",
    { class: "hours" },
    el(
      "tr",
      {},
      el("th", {}, t("hour")),
      el("th"),
      ["passed", "rejected", "doubtful"].map((key) => el("th", { class: "n" }, t(key))),
    ),
    rows.map((row) =>
      el(
        "tr",
        {},
        el("td", {}, hour(row.from)),
        el("td", { class: "wide" }, hourBar(row, most)),
        VERDICTS.map((verdict) => el("td", { class: "n" }, number(row[verdict]))),
      ),
    ),
  );
}

function hourBar(row, most) {
  let x = 0;
  const parts = VERDICTS.map((verdict) => {
    const width = (100 * row[verdict]) / most;
    x += width;
    return svg("rect", { class: verdict, x: x - width, width, height: 4 });
  });
  return svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, parts);
}

const models = (rows) =>
  el(
    "table",
    {},
    el(
      "tr",
      {},
      ["model", "threshold", "parts", "first", "last"].map((key) => el("th", {}, t(key))),
      el("th", {}, "SHA-256"),
    ),
    rows.map((row) =>
      el(
        "tr",
        {},
        el("td", {}, el("b", {}, row.ref)),
        el("td", {}, score(row.threshold)),
        el("td", {}, number(row.parts)),
        el("td", {}, day(row.first)),
        el("td", {}, day(row.last)),
        el("td", { class: "hash" }, row.sha256),
      ),
    ),
  );

function promiseOf({ ref, promise }) {
  const said = promiseWords(promise);
  return said && el("p", { class: "promise" }, el("b", {}, `${ref}: ${said[0]}.`), " ", said[1]);
}

const ACTIONS = { use: "actionUse", "roll back": "actionBack", add: "actionAdd", began: "actionBegan" };

function changes({ began_with: began, changes }) {
  const rows = [began && changeLine({ ...began, action: "began" }), ...changes.map(changeLine)].filter(Boolean);
  return rows.length > 0 && [el("h2", {}, t("modelChanges")), el("table", {}, rows)];
}

const changeLine = ({ time, who, action, ref }) =>
  el("tr", {}, el("td", {}, day(time)), el("td", {}, whoOf(who)), el("td", {}, t(ACTIONS[action], { ref })));

const partOf = (part, decided) =>
  el(
    "section",
    { class: `part ${part.final}` },
    el(
      "header",
      {},
      el("span", { class: `word ${part.verdict}` }, symbol(part.verdict), t(part.verdict)),
      el("h3", {}, nameOf(part)),
      el("span", { class: "soft" }, clock(part.time)),
      el(
        "span",
        { class: "reading" },
        t("scoreOf", { score: score(part.score), threshold: score(part.threshold) }),
        scale(part),
      ),
      decideButton(part, decided),
    ),
    part.kept === false
      ? el("p", { class: "soft" }, t("thinned"))
      : el(
          "div",
          { class: "pictures" },
          [
            ["thumbnail", "original"],
            ["overlay", "overlay"],
          ].map(([kind, key]) =>
            el(
              "figure",
              {},
              el("img", {
                src: pictureOf(part, kind),
                width: part.image.width,
                height: part.image.height,
                alt: t(key),
                loading: "lazy",
              }),
              el("figcaption", {}, t(key)),
            ),
          ),
        ),
    part.decision && el("p", { class: "decision" }, symbol(part.decision.verdict), decisionLine(part)),
    el(
      "p",
      { class: "soft" },
      [part.model.ref, part.camera && whoOf(part.camera), part.lot && `${t("lot")} ${part.lot}`, part.id]
        .filter(Boolean)
        .join(" · "),
    ),
  );

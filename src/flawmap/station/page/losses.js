// The losses of a training, a small curve a stage.

import { el, svg } from "./dom.js";
import { number, t } from "./strings.js";

const WIDTH = 300;
const HEIGHT = 70;
const NO_LOSS = ["step", "samples_a_second"];
const STAGES = { detect: "stageDetect", refine: "stageRefine" };

export const stageName = (stage) => (STAGES[stage] ? t(STAGES[stage]) : stage);

export function losses(metrics) {
  const stages = [...new Set(metrics.map((row) => row.stage))];
  const drawn = stages
    .map((stage) =>
      stageOf(
        stage,
        metrics.filter((row) => row.stage === stage),
      ),
    )
    .filter(Boolean);
  return drawn.length > 0 && el("div", { class: "losses" }, drawn);
}

const sumOf = (row) =>
  Object.entries(row).reduce(
    (sum, [name, value]) => (typeof value === "number" && !NO_LOSS.includes(name) ? sum + value : sum),
    0,
  );

function stageOf(stage, rows) {
  if (rows.length < 2) return null;
  const sums = rows.map(sumOf);
  const highest = Math.max(...sums) || 1;
  const points = sums
    .map((sum, n) => `${(WIDTH * n) / (sums.length - 1)},${HEIGHT - 2 - ((HEIGHT - 6) * sum) / highest}`)
    .join(" ");
  return el(
    "figure",
    {},
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("polyline", { points }),
    ),
    el("figcaption", {}, `${t("loss")} · ${stageName(stage)} · ${number(sums.at(-1), 4)}`),
  );
}

// From photos to a model in use: a data set, a training, a comparison, a promotion.

import { get, post } from "./api.js";
import { ask, busy, button, el, field, refill, select, tell } from "./dom.js";
import { comparison } from "./comparison.js";
import { datasets } from "./datasets.js";
import { losses, stageName } from "./losses.js";
import { onEach } from "./store.js";
import { day, number, percent, t } from "./strings.js";
import { words } from "./words.js";

const STATES = { running: "running", done: "done", failed: "failedState", cancelled: "cancelled" };
const ABOUT = { fast: "recipeFast", accurate: "recipeAccurate", demo: "recipeDemo", paper: "recipePaper" };
const POLL_MS = 2000;

const whyOf = (training) => words(training.why_code, { step: training.step }, training.why);

export function train(root) {
  const run = el("section", { class: "card" });
  const result = el("section", { class: "card" });
  const photos = datasets(newOrder);
  let recipes = [];
  let trainings = [];
  let chosen = null; // id of the training shown
  let order = null; // the form, kept while what it is about stays: someone may be filling it in
  let timer = 0;

  const shown = () => trainings.find((training) => training.id === chosen) ?? trainings[0];

  async function load() {
    const [kinds, runs] = await Promise.all([get("/api/recipes"), get("/api/trainings")]);
    recipes = kinds.recipes;
    trainings = runs.trainings;
    order = null;
    await refresh();
  }

  // The events of the stream come without metrics, which the curve needs.
  async function refresh() {
    clearTimeout(timer);
    if (shown()) take(await get(`/api/trainings/${shown().id}`));
    draw();
    if (shown()?.comparison?.state === "running") timer = setTimeout(refresh, POLL_MS);
  }

  function take(training) {
    const known = trainings.findIndex((other) => other.id === training.id);
    if (known < 0) trainings.unshift(training);
    else trainings[known] = { ...trainings[known], ...training };
  }

  function draw() {
    drawRun();
    drawResult();
  }

  function drawRun() {
    const training = shown();
    refill(
      run,
      el("h2", {}, t("training")),
      training?.state !== "running" && (order ??= form()),
      training && progress(training, stop),
      earlier(),
    );
  }

  function newOrder() {
    order = null;
    drawRun();
  }

  function drawResult() {
    const training = shown();
    const content =
      training?.state === "done" ? comparison(training, refresh) : el("p", { class: "soft" }, t("trainFirst"));
    refill(result, el("h2", {}, t("compare")), content);
  }

  function form() {
    const set = photos.chosen();
    const name = el("input", { value: set?.name ?? "", maxlength: 60, required: true });
    const about = el("p", { class: "soft wide" });
    const describe = () => (about.textContent = aboutOf(recipes.find((one) => one.name === recipe.value)));
    const recipe = select(
      recipes.map((one) => [one.name, one.name]),
      "fast",
      { onchange: describe },
    );
    const settings = el("textarea", { rows: 4, spellcheck: "false", placeholder: "detect.steps=500" });
    describe();
    const begin = el("button", { class: "primary", disabled: !set?.good }, t("start"));
    const submit = (event) => {
      event.preventDefault();
      start(
        {
          dataset: set.id,
          name: name.value.trim(),
          recipe: recipe.value,
          settings: settings.value
            .split("\n")
            .map((line) => line.trim())
            .filter(Boolean),
        },
        begin,
      );
    };
    return el(
      "form",
      { class: "row", onsubmit: submit },
      field(t("name"), name),
      field(t("recipe"), recipe),
      begin,
      !set?.good && el("p", { class: "soft" }, t("noPhotos")),
      about,
      el("details", { class: "wide" }, el("summary", {}, t("expert")), field(t("settings"), settings)),
    );
  }

  async function start(order, control) {
    const training = await busy(control, () => post("/api/trainings", order));
    if (!training) return;
    take(training);
    chosen = training.id;
    refresh();
  }

  async function stop(training, control) {
    if (!(await ask(t("stopAsk"), [t("stopDetail")], t("stop")))) return;
    const stopped = await busy(control, () => post(`/api/trainings/${training.id}/cancel`));
    if (stopped) take(stopped);
    draw();
  }

  const earlier = () =>
    trainings.length > 1 &&
    el(
      "details",
      { class: "earlier" },
      el("summary", {}, `${t("earlier")} (${trainings.length})`),
      trainings.map((training) =>
        button(
          `${training.name} · ${t(STATES[training.state])} · ${day(training.created)}`,
          () => ((chosen = training.id), refresh()),
          { "aria-current": training === shown() && "true" },
        ),
      ),
    );

  function hear(training) {
    const before = trainings.find((other) => other.id === training.id);
    take(training);
    const news =
      training.state !== before?.state ||
      training.first !== before?.first ||
      training.comparison?.state !== before?.comparison?.state;
    if (news && training.state === "failed") tell(whyOf(training), true);
    if (training.id === shown().id) refresh();
  }

  root.append(el("div", { class: "train" }, photos.node, run, result));
  busy(run, load);
  photos.load();
  const end = onEach({ training: hear, lag: refresh });
  return () => (end(), photos.end(), clearTimeout(timer));
}

const aboutOf = (recipe) => (recipe && ABOUT[recipe.name] ? t(ABOUT[recipe.name]) : (recipe?.about ?? ""));

function progress(training, stop) {
  const { state, stage, step, steps } = training;
  const bar = el("progress", { max: 1, value: training.progress, "aria-label": t("training") });
  return el(
    "div",
    { class: `progress ${state}` },
    el(
      "p",
      { class: "row between" },
      el("b", {}, `${training.name} · ${t(STATES[state])}`),
      el("span", { class: "soft" }, training.started && day(training.started)),
    ),
    training.why && el("p", { class: state === "failed" ? "wrong" : "soft" }, whyOf(training)),
    state === "running" && [
      el("div", { class: "row" }, bar, el("b", { class: "n" }, percent(training.progress, 0))),
      el(
        "p",
        { class: "row between" },
        el(
          "span",
          {},
          stage && t("step", { stage: stageName(stage), step: number(step ?? 0), steps: number(steps ?? 0) }),
        ),
        button(t("stop"), (event) => stop(training, event.currentTarget)),
      ),
    ],
    state === "done" && measured(training),
    losses(training.metrics ?? []),
    training.first > 0 && firstMaps(training),
  );
}

/** At which size photos are inspected, and how small a spot is found; each where it is known. */
const measured = ({ size, smallest }) => [
  size && el("p", { class: "soft" }, t("sizes", { photo: sides(size.photo), network: sides(size.network) })),
  smallest &&
    el(
      "p",
      { class: "soft" },
      t("smallest", {
        size: diameter(smallest),
        contrast: percent(smallest.contrast, 0),
        photos: number(smallest.photos),
      }),
    ),
];

const sides = ([height, width]) => `${width}×${height}`;

function diameter({ pixels, tried: [low, high] }) {
  if (pixels === null) return t("largerThan", { n: number(high) });
  return pixels <= low ? t("atMost", { n: number(low) }) : number(Math.ceil(pixels));
}

const firstMaps = ({ id, first }) =>
  el(
    "div",
    {},
    el("h3", {}, t("firstMaps")),
    el(
      "div",
      { class: "maps" },
      Array.from({ length: first }, (_, n) => el("img", { src: `/api/trainings/${id}/first/${n}`, alt: "" })),
    ),
  );

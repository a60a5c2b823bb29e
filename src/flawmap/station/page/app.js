// The frame: who is logged in, the tabs their role has, notices, and the view that the address names.

import { ApiError, get, remove } from "./api.js";
import { button, el, hush, refill, say, tell } from "./dom.js";
import { live } from "./live.js";
import { login } from "./login.js";
import { promiseWords } from "./promise.js";
import { report } from "./report.js";
import { review } from "./review.js";
import { search } from "./search.js";
import { emit, LAST, may, on, store, takeChange, takePart, takeUnlike } from "./store.js";
import { listen } from "./stream.js";
import { language, languages, nameOf, span, speak, t } from "./strings.js";
import { switchTest } from "./testing.js";
import { threshold } from "./threshold.js";
import { train } from "./train.js";
import { words } from "./words.js";

const VIEWS = { live, review, parts: search, threshold, train, report };
const NEEDS = { train: "engineer" };

const main = document.getElementById("main");
const nothing = () => {};
let close = nothing;
let hangUp = nothing;

const tabs = () => Object.keys(VIEWS).filter((name) => may(NEEDS[name] ?? "operator"));

function wanted() {
  const name = location.hash.slice(1).split("?")[0];
  return tabs().includes(name) ? name : "live";
}

function drawTop() {
  const skip = document.getElementById("skip");
  skip.textContent = t("skip");
  document.documentElement.lang = language();
  document.title = [store.session && t(wanted()), store.station?.name, "flawmap"].filter(Boolean).join(" · ");
  document
    .getElementById("top")
    .replaceChildren(
      el(
        "div",
        { class: "brand", title: store.station?.name },
        el("b", {}, "flawmap"),
        el("span", {}, store.station?.name ?? ""),
      ),
      el("nav", { "aria-label": t("views") }, store.session ? tabs().map(tab) : []),
      el(
        "div",
        { class: "corner" },
        whoIsThere(),
        el("div", { class: "languages", role: "group", "aria-label": t("language") }, languages.map(languageButton)),
      ),
    );
}

const tab = (name) => el("a", { href: `#${name}`, "aria-current": name === wanted() && "page" }, t(name));

const languageButton = (name) =>
  button(name.toUpperCase(), () => (speak(name), draw()), { "aria-pressed": String(name === language()), lang: name });

function whoIsThere() {
  if (!store.session?.access) return null;
  return [
    el("span", { class: "who" }, el("b", {}, store.session.name), el("span", {}, t(store.session.role))),
    button(t("logOut"), logOut),
  ];
}

function draw() {
  // A question belongs to the view that asked it; unanswered, it is a no.
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  hush(); // it told of the view before
  close();
  drawTop();
  drawNotices();
  main.replaceChildren();
  close = view() ?? nothing;
}

/** What the address says beside the view, as `#parts?lot=A17`. */
const given = () => Object.fromEntries(new URLSearchParams(location.hash.split("?")[1] ?? ""));

/** Put what is wanted into main; gives what is to be called before it goes, if anything. */
function view() {
  if (!store.session) return login(main, begin);
  if (may("operator")) return VIEWS[wanted()](main, given());
  return main.append(el("p", { class: "empty" }, t("cameraOnly")));
}

function notices() {
  if (!store.session) return [];
  if (!store.online) return [["lost", t("lost")]];
  const { ready, why, why_code: code, silent, silent_s: seconds, drift, promise, test } = store.station ?? { ready: true };
  const found = [];
  if (test?.on)
    found.push(["test", t("testMode"), t(test.verdicts ? "testVerdicts" : "testSilent")]);
  if (!ready) found.push(["lost", t("notReady", { why: words(code, {}, why) })]);
  if (ready && silent) found.push(["silent", t("silent", { time: span(seconds) })]);
  if (drift?.verdict === "drifted") found.push(["drift", t("drifted"), t("driftDetail", { parts: drift.parts })]);
  if (drift?.verdict === "on the way") found.push(["drift", t("drifting"), t("driftDetail", { parts: drift.parts })]);
  const told = promiseWords(promise);
  if (told) found.push(["promise", ...told]);
  return found;
}

let noticed = "";

// role=alert speaks whatever changes, so that only what is new is written anew.
function drawNotices() {
  const found = notices();
  const now = JSON.stringify(found);
  if (now === noticed) return;
  noticed = now;
  document
    .getElementById("notices")
    .replaceChildren(
      ...found.map(([kind, text, detail]) =>
        el(
          "p",
          { class: `notice ${kind}` },
          el("b", {}, text),
          detail && el("span", {}, detail),
          kind === "test" && may("engineer") && button(t("testEnd"), (event) => switchTest(false, event.currentTarget)),
        ),
      ),
    );
  document.body.classList.toggle("offline", !store.online);
}

const READ = {
  verdict: takePart,
  test: takePart,
  unlike: takeUnlike,
  decision: ({ part }) => takeChange(part),
  station: (station) => ((store.station = station), emit("station", station)),
  model: (change) => emit("model", change),
  training: (training) => emit("training", training),
  lag: () => catchUp().then(() => emit("lag")),
};

async function catchUp() {
  const last = (test) => get("/api/parts", { limit: LAST, test });
  const [station, counted, tests] = await Promise.all([get("/api/station"), last(false), last(true)]);
  store.station = station;
  store.parts = [...counted.parts, ...tests.parts].sort((one, other) => other.seq - one.seq).slice(0, LAST);
}

function online(state) {
  if (store.online === state) return;
  store.online = state;
  drawNotices();
  emit("online", state);
}

async function begin(session) {
  store.session = session;
  if (may("operator")) {
    await catchUp();
    const after = Math.max(0, ...store.parts.flatMap((part) => [part.seq, part.decisions.at(-1)?.seq ?? 0]));
    hangUp();
    hangUp = listen(after, { read: (event, data) => READ[event](data), online, refused: stillIn });
  }
  draw();
}

/** After a stream was refused: is it the token, or the station? */
const stillIn = () => get("/api/session").catch((problem) => problem.status === 401 && emit("session ended"));

function end() {
  hangUp();
  Object.assign(store, { session: null, station: null, parts: [], online: true });
  draw();
}

async function logOut() {
  await remove("/api/session").catch(() => {});
  end();
}

async function start() {
  try {
    await begin(await get("/api/session"));
  } catch (problem) {
    if (problem.status === 401) return draw();
    refill(main, el("p", { class: "empty" }, problem.message));
    setTimeout(start, 3000);
  }
}

window.addEventListener("hashchange", () => {
  draw();
  main.focus({ preventScroll: true });
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
// What a view asked for in the background and was refused. A lost connection has its notice already.
window.addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof ApiError)) return;
  event.preventDefault();
  if (event.reason.status && event.reason.status !== 401) tell(event.reason.message, true);
});
on("session ended", () => store.session && end());
on("station", drawNotices);
on("part", (part) => say(t("spoken", { label: nameOf(part), verdict: t(part.verdict) })));
drawTop();
start();

// The photos to learn from: dropped, looked through, and put right.

import { get, post, remove, send } from "./api.js";
import { ask, busy, button, el, field, refill, select, symbol, tell } from "./dom.js";
import { IMAGES, filesOf, isImage } from "./files.js";
import { number, t } from "./strings.js";
import { words } from "./words.js";

const AT_ONCE = 8; // photos a request
const POLL_MS = 1000;
const NAMED = 5; // of the files left out
const PROBLEMS = ["duplicate", "size", "blurred", "outlier", "exposure", "unreadable", "depth", "mask"];
const KINDS = { good: ["dropGood", "photosGood"], defective: ["dropBad", "photosBad"] };

/** `{node, load, chosen, end}`; changed() is called when another data set is chosen, or its photos change. */
export function datasets(changed) {
  const node = el("section", { class: "card" });
  const status = el("p", { class: "row", role: "status" });
  const refused = el("div", { class: "refused" });
  let sets = [];
  let set = null; // with its photos
  let timer = 0;

  async function load(id) {
    sets = (await get("/api/datasets")).datasets;
    await open(id ?? set?.id ?? sets[0]?.id);
  }

  async function open(id) {
    clearTimeout(timer);
    set = sets.some((other) => other.id === id) ? await get(`/api/datasets/${id}`) : null;
    draw();
    changed();
    if (set?.checking) timer = setTimeout(() => open(id).catch(() => {}), POLL_MS);
  }

  function draw() {
    refill(
      node,
      el("h2", {}, t("dataSet")),
      el("div", { class: "row" }, set && chooser(), creator()),
      set && [drops(), status, refused, verdictOnPhotos()],
    );
  }

  const chooser = () => [
    field(
      t("chooseDataSet"),
      select(
        sets.map(({ id, name }) => [id, name]),
        set.id,
        { onchange: (event) => (refused.replaceChildren(), open(event.target.value)) },
      ),
    ),
    button(t("deleteDataSet"), (event) => drop(event.currentTarget)),
  ];

  function creator() {
    const name = el("input", { maxlength: 60, required: true });
    const make = el("button", { class: set ? "" : "primary" }, t("create"));
    const submit = async (event) => {
      event.preventDefault();
      const made = await busy(make, () => post("/api/datasets", { name: name.value.trim() }));
      if (made) load(made.id);
    };
    const form = el("form", { class: "row", onsubmit: submit }, field(t("newDataSet"), name), make);
    return set ? el("details", {}, el("summary", {}, t("newDataSet")), form) : form;
  }

  async function drop(control) {
    const count = set.good + set.defective + set.masks;
    if (!(await ask(t("deleteAsk", { name: set.name, n: number(count) }), [], t("deleteDataSet")))) return;
    if ((await busy(control, () => remove(`/api/datasets/${set.id}`))) !== undefined) load();
  }

  const drops = () => el("div", { class: "drops" }, Object.keys(KINDS).map(dropZone));

  function dropZone(kind) {
    const [text, count] = KINDS[kind];
    const pick = (folder) => {
      const input = el("input", {
        type: "file",
        multiple: true,
        accept: IMAGES,
        webkitdirectory: folder,
        class: "unseen",
        tabindex: "-1",
        "aria-hidden": "true",
        "data-kind": kind,
        onchange: () => add(kind, [...input.files]),
      });
      return [input, button(t(folder ? "folder" : "files"), () => input.click())];
    };
    const zone = el(
      "div",
      {
        class: `drop ${kind}`,
        ondragover: (event) => (event.preventDefault(), zone.classList.add("over")),
        ondragleave: () => zone.classList.remove("over"),
        ondrop: async (event) => {
          event.preventDefault();
          zone.classList.remove("over");
          add(kind, await filesOf(event.dataTransfer));
        },
      },
      el("b", {}, t(count, { n: number(set[kind]) })),
      kind === "defective" && set.masks > 0 && el("span", {}, t("masksOfBad", { n: number(set.masks) })),
      el("span", {}, t(text)),
      el("div", { class: "row" }, pick(false), pick(true)),
    );
    return zone;
  }

  async function add(kind, files) {
    const images = files.filter(isImage);
    const others = files.filter((file) => !isImage(file)).map((file) => file.name);
    if (!images.length) return tell(t("notAnImage"), true);
    const { id } = set;
    const bad = [];
    for (let sent = 0; sent < images.length; sent += AT_ONCE) {
      status.textContent = t("sending", { done: sent, total: images.length });
      const answer = await busy(node, () =>
        send(`/api/datasets/${id}/photos?kind=${kind}`, images.slice(sent, sent + AT_ONCE)),
      );
      if (!answer) break;
      bad.push(...answer.refused);
    }
    status.textContent = "";
    refill(
      refused,
      others.length > 0 && el("p", {}, t(others.length > 1 ? "leftOut" : "leftOutOne", leftOut(others))),
      bad.length > 0 && [
        el("p", { class: "wrong" }, t("refusedFiles", { n: bad.length })),
        el(
          "ul",
          {},
          bad.map(({ name, error, code, values }) => el("li", {}, `${name}: ${words(code, values, error)}`)),
        ),
      ],
    );
    await load(id);
  }

  const leftOut = (names) => ({
    n: number(names.length),
    names: names.slice(0, NAMED).join(", ") + (names.length > NAMED ? ", …" : ""),
  });

  function verdictOnPhotos() {
    if (!set.good) return "";
    if (set.checking) return el("p", { class: "row" }, el("progress", {}), t("checking"));
    const check = button(t("check"), (event) => start(event.currentTarget));
    if (!set.checked) return el("div", { class: "row" }, check, el("span", { class: "soft" }, t("unchecked")));
    const odd = set.photos.filter((photo) => photo.problems.length);
    if (!odd.length) return el("div", { class: "row" }, el("b", {}, t("checkedFine")), check);
    return el(
      "div",
      {},
      el("ul", { class: "summary" }, summary(odd)),
      el(
        "div",
        { class: "row between" },
        el("h3", {}, t("withProblems", { n: odd.length })),
        el(
          "div",
          { class: "row" },
          check,
          button(t("removeAll"), (event) => removePhotos(odd, event.currentTarget)),
        ),
      ),
      el("div", { class: "photos" }, odd.map(oddPhoto)),
    );
  }

  const problemOf = (kind) => (PROBLEMS.includes(kind) ? t(kind) : kind);

  function summary(odd) {
    const kinds = odd.flatMap((photo) => [...new Set(photo.problems.map(({ kind }) => kind))]);
    return [...new Set(kinds)].map((kind) =>
      el(
        "li",
        {},
        t("problemCount", { problem: problemOf(kind), n: number(kinds.filter((one) => one === kind).length) }),
      ),
    );
  }

  const oddPhoto = (photo) =>
    el(
      "figure",
      {},
      el("img", {
        src: `/api/datasets/${set.id}/photos/${photo.id}?thumbnail=true`,
        alt: "",
        loading: "lazy",
        onerror: ({ target }) => target.replaceWith(el("p", { class: "gone" }, symbol("doubt"), t("noPicture"))),
      }),
      el(
        "figcaption",
        {},
        el("b", {}, photo.name),
        photo.problems.map(({ kind, text, code, values }) =>
          el("p", {}, el("span", { class: "tag" }, problemOf(kind)), ` ${words(code, values, text)}`),
        ),
      ),
      button("×", (event) => removePhotos([photo], event.currentTarget), {
        "aria-label": t("removePhoto", { name: photo.name }),
      }),
    );

  async function start(control) {
    if (await busy(control, () => post(`/api/datasets/${set.id}/check`).then(() => true))) open(set.id);
  }

  async function removePhotos(photos, control) {
    await busy(control, async () => {
      for (const photo of photos) await remove(`/api/datasets/${set.id}/photos/${photo.id}`);
    });
    load();
  }

  return { node, load: () => busy(node, () => load()), chosen: () => set, end: () => clearTimeout(timer) };
}

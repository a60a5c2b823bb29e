// A report as one HTML file that needs nothing else: styles and pictures inside.

import { el } from "./dom.js";
import { language } from "./strings.js";

const SIDE = 640; // pixels of a picture's longer side, so that 200 parts stay a file one can mail
const STYLES = ["base.css", "report.css"];

export async function oneFile(paper) {
  const page = pageOf(paper);
  for (const control of page.querySelectorAll("button, .button")) control.remove(); // no station is there to ask
  for (const picture of page.querySelectorAll("img")) await inline(picture);
  const styles = await Promise.all(STYLES.map(async (path) => (await fetch(path)).text()));
  // The styles join as text: as an element, this page's own policy would forbid them.
  const text = page.documentElement.outerHTML.replace(
    "</head>",
    () => `<style>\n${styles.join("\n")}</style>\n</head>`,
  );
  save(`<!doctype html>\n${text}\n`, nameOf(paper));
}

async function inline(picture) {
  const response = await fetch(picture.getAttribute("src"));
  picture.removeAttribute("loading");
  if (!response.ok) return picture.removeAttribute("src");
  const bitmap = await createImageBitmap(await response.blob());
  const shrink = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", { width: Math.round(bitmap.width * shrink), height: Math.round(bitmap.height * shrink) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  picture.setAttribute("src", canvas.toDataURL("image/jpeg", 0.85));
}

/** A document that is shown nowhere, so that it loads nothing. */
function pageOf(paper) {
  const page = document.implementation.createHTMLDocument(paper.querySelector("h1").textContent);
  page.documentElement.lang = language();
  const meta = [
    { httpEquiv: "Content-Type", content: "text/html; charset=utf-8" },
    { name: "viewport", content: "width=device-width, initial-scale=1" },
  ];
  page.head.prepend(...meta.map((values) => Object.assign(page.createElement("meta"), values)));
  page.body.append(page.importNode(paper, true));
  return page;
}

function save(text, name) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  el("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

const nameOf = (paper) => `${paper.querySelector("h1").textContent.replace(/[^\p{L}\p{N}]+/gu, "-")}.html`;

// Scores as a histogram, with a line that mouse, finger and arrow keys move.

import { el, svg } from "./dom.js";
import { number, score, t } from "./strings.js";

const HEIGHT = 220;
const TOP = 34; // room for what is written at the lines
const FOOT = 26;
const TICK = 90; // pixels between two ticks at least
const EDGE = 9; // pixels from an end within which a number is written to one side
const STEPS = 200; // presses of an arrow key from one end to the other

/** `{node, move, end}`; moved(score) is called as the user moves the line. */
export function histogram(data, moved) {
  const { low, high } = data;
  const node = el("div", { class: "histogram" });
  let at = data.threshold;
  let width = 0;
  let line = null;

  const x = (value) => ((value - low) / (high - low)) * width;
  const clamp = (value) => Math.max(low, Math.min(high, value));

  function draw() {
    width = node.clientWidth;
    if (!width) return;
    line = handle();
    node.replaceChildren(
      svg(
        "svg",
        {
          width,
          height: HEIGHT + TOP + FOOT,
          viewBox: `0 ${-TOP} ${width} ${HEIGHT + TOP + FOOT}`,
          onpointerdown: grab,
        },
        svg("rect", { class: "ground pass", y: 0, height: HEIGHT, x: 0 }),
        svg("rect", { class: "ground reject", y: 0, height: HEIGHT }),
        svg("rect", { class: "band", y: 0, height: HEIGHT }),
        bars(data, x),
        axis(data, x),
        inUse(data.threshold, x),
        line,
      ),
    );
    place();
  }

  const handle = () =>
    svg(
      "g",
      {
        class: "handle",
        tabindex: 0,
        role: "slider",
        "aria-label": t("line"),
        "aria-orientation": "horizontal",
        "aria-valuemin": low,
        "aria-valuemax": high,
        onkeydown: press,
      },
      svg("rect", { x: -22, width: 44, y: -TOP, height: HEIGHT + TOP, class: "reach" }),
      svg("line", { y1: 0, y2: HEIGHT }),
      svg("rect", { x: -20, width: 40, y: HEIGHT / 2 - 32, height: 64, rx: 10, class: "ring" }),
      svg("rect", { x: -14, width: 28, y: HEIGHT / 2 - 26, height: 52, rx: 6, class: "grip" }),
      svg("path", { d: `M-4 ${HEIGHT / 2 - 10}v20M4 ${HEIGHT / 2 - 10}v20`, class: "ridges" }),
      svg("text", { y: -10, "text-anchor": "middle" }),
    );

  function place() {
    const here = x(at);
    const [pass, reject, band] = node.querySelectorAll("rect");
    pass.setAttribute("width", here);
    reject.setAttribute("x", here);
    reject.setAttribute("width", width - here);
    band.setAttribute("x", x(clamp(at - data.doubt)));
    band.setAttribute("width", x(clamp(at + data.doubt)) - x(clamp(at - data.doubt)));
    line.setAttribute("transform", `translate(${here} 0)`);
    line.setAttribute("aria-valuenow", at.toFixed(6));
    line.setAttribute("aria-valuetext", score(at, digitsOf(data)));
    const text = line.querySelector("text");
    text.textContent = score(at, digitsOf(data));
    text.setAttribute("x", Math.max(0, 30 - here) - Math.max(0, here + 30 - width));
  }

  function move(value) {
    at = clamp(value);
    if (line) place();
  }

  function moveTo(value) {
    move(value);
    moved(at);
  }

  function grab(event) {
    const plot = event.currentTarget;
    const follow = (pointer) =>
      moveTo(low + ((pointer.clientX - plot.getBoundingClientRect().left) / width) * (high - low));
    plot.setPointerCapture(event.pointerId);
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("lostpointercapture", () => plot.removeEventListener("pointermove", follow), { once: true });
    event.preventDefault();
    line.focus({ preventScroll: true });
    follow(event);
  }

  function press(event) {
    const step = ((high - low) / STEPS) * (event.shiftKey ? 10 : 1);
    const to = {
      ArrowLeft: at - step,
      ArrowDown: at - step,
      ArrowRight: at + step,
      ArrowUp: at + step,
      PageDown: at - 10 * step,
      PageUp: at + 10 * step,
      Home: low,
      End: high,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moveTo(to);
  }

  const size = new ResizeObserver(() => node.clientWidth !== width && draw());
  size.observe(node);
  return { node, move, end: () => size.disconnect() };
}

/** As many as tell two steps of the line apart. */
export const digitsOf = ({ low, high }) => Math.max(3, 2 - Math.floor(Math.log10(high - low)));

const SERIES = ["held_out", "decided_good", "decided_bad"];

// Stacked, in front of the silhouette of all parts; square roots, so that a few still show beside many.
function bars(data, x) {
  const tallest = Math.max(
    1,
    ...data.parts,
    ...data.edges.slice(1).map((_, bin) => SERIES.reduce((sum, name) => sum + data[name][bin], 0)),
  );
  const height = (count) => HEIGHT * 0.94 * Math.sqrt(count / tallest);
  const bar = (bin, from, to, kind) => {
    const [left, right] = [x(data.edges[bin]), x(data.edges[bin + 1])];
    const inset = kind === "parts" ? 0 : Math.min(1.5, (right - left) / 6);
    return (
      to > from &&
      svg("rect", {
        class: `bar ${kind}`,
        x: left + inset,
        width: Math.max(1, right - left - 2 * inset),
        y: HEIGHT - height(to),
        height: height(to) - height(from),
      })
    );
  };
  return svg(
    "g",
    { "aria-hidden": "true" },
    data.parts.flatMap((count, bin) => {
      const heights = SERIES.reduce((sums, name) => [...sums, sums.at(-1) + data[name][bin]], [0]);
      return [bar(bin, 0, count, "parts"), ...SERIES.map((name, at) => bar(bin, heights[at], heights[at + 1], name))];
    }),
  );
}

function axis({ low, high }, x) {
  const most = x(high) / TICK;
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = power * [1, 2, 5, 10].find((size) => (high - low) / (size * power) <= most);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) ticks.push(n * step);
  const digits = Math.max(1, -Math.floor(Math.log10(step * 1.001)));
  const anchor = (value) => (x(value) < EDGE ? "start" : x(high) - x(value) < EDGE ? "end" : "middle");
  return svg(
    "g",
    { class: "axis", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: x(high), y1: HEIGHT, y2: HEIGHT }),
    ticks.map((value) => [
      svg("line", { x1: x(value), x2: x(value), y1: HEIGHT, y2: HEIGHT + 5 }),
      svg("text", { x: x(value), y: HEIGHT + 21, "text-anchor": anchor(value) }, number(value, digits)),
    ]),
  );
}

const inUse = (value, x) =>
  svg("line", { class: "in-use", x1: x(value), x2: x(value), y1: 0, y2: HEIGHT, "aria-hidden": "true" });

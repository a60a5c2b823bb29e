// Measured in the page by test_page_looks.py: contrast after WCAG 2.2 (1.4.3 texts, 1.4.11 controls), targets, the order
// of the keyboard. `window.looks` is what it gives.

(() => {
  const channel = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const mix = (upper, lower, share) => lower.map((value, n) => share * upper[n] + (1 - share) * value);
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };

  /** [r, g, b] from 0 to 1, and the alpha, of a computed colour. */
  function colour(text) {
    const srgb = text.match(/^color\(srgb ([^)]*)\)$/);
    const values = (srgb ? srgb[1] : text).match(/[\d.]+(e-?\d+)?/g)?.map(Number);
    if (!values) return [[0, 0, 0], 0];
    const rgb = values.slice(0, 3).map((value) => (srgb ? value : value / 255));
    return [rgb, values.length > 3 ? values[3] : 1];
  }

  const over = (text, lower) => {
    const [rgb, alpha] = colour(text);
    return mix(rgb, lower, alpha);
  };

  const grey = (rgb) => Array(3).fill(0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]);

  /** What an element paints behind its own text, without regard to opacity. */
  function ground(node) {
    if (!node) return [1, 1, 1];
    const style = getComputedStyle(node);
    if (node instanceof SVGElement && !(node instanceof SVGSVGElement))
      return ground(node.ownerSVGElement.parentElement);
    // A dialog stands before all others on its own ground.
    const below = node.matches("dialog, .told") ? [1, 1, 1] : ground(node.parentElement);
    return over(style.backgroundColor, below);
  }

  /** Both colours as they are seen: every ancestor that is half transparent or grey is so as a whole. */
  function seen(node, fore, back) {
    for (let each = node; each; each = each.parentElement) {
      const style = getComputedStyle(each);
      const filter = style.filter;
      const faded = Number(style.opacity) * Number(filter.match(/opacity\(([\d.]+)\)/)?.[1] ?? 1);
      if (filter.includes("grayscale(1)")) [fore, back] = [grey(fore), grey(back)];
      if (faded < 1) {
        const behind = ground(each.parentElement);
        [fore, back] = [mix(fore, behind, faded), mix(back, behind, faded)];
      }
    }
    return ratio(fore, back);
  }

  const shown = (node) => {
    if (!node.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || node.closest(".unseen"))
      return false;
    const box = node.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.bottom + scrollY > 0;
  };
  const off = (node) => node.closest(":disabled") !== null; // a control that is off is exempt
  const name = (node) => {
    const kind = node.getAttribute?.("class");
    return `${node.tagName.toLowerCase()}${kind ? `.${kind.replaceAll(" ", ".")}` : ""}`;
  };
  const layer = () => document.querySelector("dialog[open]") ?? document.body;

  // Under a text in a drawing lie the drawing's own shapes.
  function groundOfDrawing(node) {
    const box = node.getBoundingClientRect();
    const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const shapes = stack.filter((each) => each.tagName === "rect" && each.ownerSVGElement === node.ownerSVGElement);
    return shapes.reverse().reduce((below, each) => over(getComputedStyle(each).fill, below), ground(node));
  }

  function texts() {
    const found = [];
    const walker = document.createTreeWalker(layer(), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim();
      const node = walker.currentNode.parentElement;
      if (!text || !shown(node) || off(node) || node.closest("script, style, noscript, option")) continue;
      const style = getComputedStyle(node);
      const drawn = node instanceof SVGElement;
      const back = drawn ? groundOfDrawing(node) : ground(node);
      const value = seen(node, over(drawn ? style.fill : style.color, back), back);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      found.push({ what: `${name(node)} "${text.slice(0, 40)}"`, value, least: large ? 3 : 4.5 });
    }
    for (const node of layer().querySelectorAll("*"))
      for (const pseudo of ["::before", "::after"]) {
        const style = getComputedStyle(node, pseudo);
        if (!/^"[^"]+"$/.test(style.content) || !shown(node)) continue;
        const back = over(style.backgroundColor, ground(node));
        found.push({ what: `${name(node)}${pseudo}`, value: seen(node, over(style.color, back), back), least: 4.5 });
      }
    // What is chosen or typed is text too, and so is what is suggested.
    for (const node of layer().querySelectorAll("input, select, textarea")) {
      if (!shown(node) || off(node) || node.type === "range") continue;
      const back = ground(node);
      found.push({
        what: `${name(node)} its text`,
        value: seen(node, over(getComputedStyle(node).color, back), back),
        least: 4.5,
      });
      if (!node.placeholder) continue;
      const hint = over(getComputedStyle(node, "::placeholder").color, back);
      found.push({ what: `${name(node)} its placeholder`, value: seen(node, hint, back), least: 4.5 });
    }
    return found;
  }

  const CONTROLS = "button, a, input, select, textarea, summary, [role=slider]";
  const controls = () =>
    [...layer().querySelectorAll(CONTROLS)].filter((node) => shown(node) && !node.matches(".skip"));

  /** Where a control is told by an edge, that edge against what is outside; else by its own ground. */
  function edges() {
    const found = [];
    for (const node of controls()) {
      const style = getComputedStyle(node);
      if (off(node) || node.matches("a:not(.button), summary, .thumb, [role=slider], input[type=range]")) continue;
      const outside = ground(node.parentElement);
      const sides = parseFloat(style.borderTopWidth) > 0 ? [over(style.borderTopColor, outside)] : [];
      const value = Math.max(...[...sides, ground(node)].map((rgb) => seen(node, rgb, outside)));
      found.push({ what: `${name(node)} edge`, value, least: 3 });
    }
    return found;
  }

  /** The mark of the control that has the focus, against what is around it. */
  function focus() {
    const node = document.activeElement;
    const mark = node.matches("[role=slider]") ? node.querySelector(".ring") : node;
    const style = getComputedStyle(mark);
    const drawn = mark !== node;
    const width = parseFloat(drawn ? style.strokeWidth : style.outlineWidth);
    const halo = style.boxShadow.match(/rgba?\([^)]*\)/)?.[0];
    const own = drawn || parseFloat(style.outlineOffset) < 0; // drawn upon the control itself
    const lower = ground(own ? node : node.parentElement);
    const around = halo && !drawn ? over(halo, lower) : lower;
    const line = over(drawn ? style.stroke : style.outlineColor, around);
    const there = drawn ? style.visibility === "visible" : style.outlineStyle !== "none";
    return { what: `${name(node)} focus`, value: there && width >= 2 ? ratio(line, around) : 1, least: 3 };
  }

  function targets() {
    return controls().map((node) => {
      const box = node.getBoundingClientRect();
      return {
        what: `${name(node)} "${(node.ariaLabel ?? node.textContent).slice(0, 40)}"`,
        value: Math.min(box.width, box.height),
        least: 44,
      };
    });
  }

  /** In the order of the document, with a number each by which `at` knows it again. */
  function order() {
    const all = controls().filter((node) => !off(node) && node.tabIndex >= 0);
    all.forEach((node, n) => (node.dataset.order = n));
    return all.map((node) => `${name(node)} "${(node.ariaLabel ?? node.textContent).slice(0, 30)}"`);
  }

  /** Before the first control, whatever has the focus now. */
  function begin() {
    const skip = document.querySelector(".skip");
    if (layer() === document.body) skip.focus();
    else layer().focus();
  }

  const at = () => Number(document.activeElement?.dataset?.order ?? -1);

  /** A verdict that is told by its colour alone, or a text that is cut off without a sign of it. */
  function mute() {
    return [...layer().querySelectorAll(".verdict, .thumb:not(.blank), .word, .decision, .choice")]
      .filter(
        (node) => shown(node) && !(node.querySelector("svg.symbol") && (node.ariaLabel ?? node.textContent).trim()),
      )
      .map(name);
  }

  /** Controls that what was told lies over. */
  function covered() {
    const told = document.querySelector(".told").getBoundingClientRect();
    return controls()
      .filter((node) => {
        const box = node.getBoundingClientRect();
        return box.left < told.right && box.right > told.left && box.top < told.bottom && box.bottom > told.top;
      })
      .map(name);
  }

  function cut() {
    return [...layer().querySelectorAll("*")]
      .filter((node) => shown(node) && !node.closest("svg") && getComputedStyle(node).overflowX !== "visible")
      .filter(
        (node) =>
          !["auto", "scroll"].includes(getComputedStyle(node).overflowX) && !node.matches("input, select, textarea"),
      )
      .filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).textOverflow !== "ellipsis")
      .map((node) => `${name(node)} ${node.scrollWidth} > ${node.clientWidth}`);
  }

  window.looks = {
    texts,
    edges,
    focus,
    targets,
    order,
    begin,
    at,
    mute,
    covered,
    cut,
    wide: () => document.documentElement.scrollWidth,
  };
})();

// Zoom and pan of what lies in a frame: wheel, drag, two fingers, double click, and calls for keys and buttons. The
// content is laid out larger, not scaled as a bitmap, so that photo pixels stay sharp and outlines stay thin.

const STEP = 1.5; // of a key or button
const WHEEL = 0.0015; // of the logarithm, for each pixel of the wheel
const LINE = 16; // pixels of a line, where a wheel counts lines
const CLOSE = 4; // double click: so many times what fits
const MOST = 32; // pixels of the screen for one of the photo
const SHARP = 2; // device pixels of one of the photo, from which on its edges are drawn as they are
const NUDGE = 60; // pixels that an arrow key moves by

/** `{by, fit, nudge, of, close}`; `content` fills `frame`, and its photo lies in it as object-fit: contain has it. */
export function zoomable(frame, content) {
  let scale = 1;
  let [x, y] = [0, 0];
  let size = null; // of the photo in its own pixels
  const fingers = new Map();

  /** Pixels of the screen for one of the photo, where all of it fits. */
  const fitting = () => (size ? Math.min(frame.clientWidth / size.width, frame.clientHeight / size.height) : 1);
  const most = () => Math.max(CLOSE, MOST / fitting());

  /** Where the content may begin along one side, so that the photo fills the frame as far as it can. */
  function within(at, room, photo) {
    const spare = (room * scale - photo) / 2;
    return photo <= room ? (room - room * scale) / 2 : Math.min(-spare, Math.max(room - photo - spare, at));
  }

  function place() {
    const { clientWidth: width, clientHeight: height } = frame;
    const shown = fitting() * scale;
    x = within(x, width, size ? size.width * shown : width * scale);
    y = within(y, height, size ? size.height * shown : height * scale);
    const near = scale > 1;
    Object.assign(
      content.style,
      near
        ? { left: `${x}px`, top: `${y}px`, width: `${width * scale}px`, height: `${height * scale}px` }
        : { left: "", top: "", width: "", height: "" },
    );
    content.style.setProperty("--px", 1 / shown); // a mask's lines do not keep their width by themselves
    frame.classList.toggle("near", near);
    content.classList.toggle("sharp", shown * devicePixelRatio >= SHARP);
  }

  function to(wanted, [px, py]) {
    const next = Math.min(most(), Math.max(1, wanted));
    [x, y] = [px - ((px - x) * next) / scale, py - ((py - y) * next) / scale];
    scale = next;
    place();
  }

  const middle = () => [frame.clientWidth / 2, frame.clientHeight / 2];

  function at({ clientX, clientY }) {
    const box = frame.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  function wheel(event) {
    event.preventDefault();
    const turned = event.deltaY * (event.deltaMode ? LINE : 1);
    to(scale * Math.exp(-WHEEL * turned), at(event));
  }

  const spread = ([one, other]) => Math.hypot(one[0] - other[0], one[1] - other[1]);
  const between = (points) => [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);

  function touch(event) {
    if (event.button > 0) return;
    fingers.set(event.pointerId, at(event));
    if (scale > 1 || fingers.size > 1) frame.setPointerCapture(event.pointerId);
  }

  function move(event) {
    if (!fingers.has(event.pointerId)) return;
    const before = [...fingers.values()];
    fingers.set(event.pointerId, at(event));
    const now = [...fingers.values()];
    const [from, here] = [between(before), between(now)];
    [x, y] = [x + here[0] - from[0], y + here[1] - from[1]];
    to(now.length === 2 ? (scale * spread(now)) / Math.max(1, spread(before)) : scale, here);
  }

  const leave = (event) => fingers.delete(event.pointerId);

  frame.addEventListener("wheel", wheel, { passive: false });
  frame.addEventListener("pointerdown", touch);
  frame.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) frame.addEventListener(end, leave);
  frame.addEventListener("dblclick", (event) => to(scale > 1 ? 1 : CLOSE, at(event)));
  frame.addEventListener("dragstart", (event) => event.preventDefault());
  new ResizeObserver(place).observe(frame); // ends with the frame

  return {
    by: (steps) => to(scale * STEP ** steps, middle()),
    fit: () => to(1, middle()),
    /** Move by keys; false where there is nothing to move. */
    nudge(across, down) {
      if (scale === 1) return false;
      [x, y] = [x - NUDGE * across, y - NUDGE * down];
      place();
      return true;
    },
    /** Another photo, of so many pixels, all of it shown. */
    of(photo) {
      size = photo;
      scale = 1;
      place();
    },
  };
}

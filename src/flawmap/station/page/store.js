// What the page knows of the station, and who wants to hear of changes.

export const LAST = 20;

export const store = { session: null, station: null, parts: [], online: true };

const readers = new Map();

/** Call `reader` with the data of every later `emit(topic, data)`; returns the function that ends this. */
export function on(topic, reader) {
  if (!readers.has(topic)) readers.set(topic, new Set());
  readers.get(topic).add(reader);
  return () => readers.get(topic).delete(reader);
}

export function emit(topic, data) {
  for (const reader of [...(readers.get(topic) ?? [])]) reader(data);
}

/** Subscribe to several topics at once; returns the function that ends them all. */
export function onEach(topics) {
  const ends = Object.entries(topics).map(([topic, reader]) => on(topic, reader));
  return () => ends.forEach((end) => end());
}

export function may(role) {
  const roles = ["camera", "operator", "engineer"];
  return roles.indexOf(store.session?.role) >= roles.indexOf(role);
}

/** Take in a part that was decided. */
export function takeChange(part) {
  const known = store.parts.findIndex((other) => other.id === part.id);
  if (known >= 0) store.parts[known] = part;
  emit("changed", part);
}

let early = []; // the id of a part and what it is unlike, which may come before the part does

/** Take in what a part is unlike. */
export function takeUnlike({ part: id, unlike }) {
  early = [id, unlike];
  const known = store.parts.find((part) => part.id === id);
  if (known) takeChange({ ...known, unlike });
}

/** Take in a part that came. A reconnected stream may send one twice. */
export function takePart(part) {
  if (store.parts.some((other) => other.id === part.id)) return;
  if (part.id === early[0]) part.unlike = early[1];
  store.parts.push(part);
  store.parts.sort((one, other) => other.seq - one.seq);
  store.parts.length = Math.min(store.parts.length, LAST);
  if (!part.test) countAhead(part);
  emit("part", part);
}

// The station sends its counters every few seconds; until then they are counted on here.
function countAhead(part) {
  const station = store.station;
  if (!station || part.time <= station.time) return;
  station.counts.inspected += 1;
  station.counts.per_hour += 1;
  station.counts[part.verdict] += 1;
  station.silent = false;
  emit("station", station);
}

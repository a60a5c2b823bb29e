// What is to be said where a threshold does not keep what it promised of good parts.

import { number, percent, t } from "./strings.js";

const SAID = {
  broken: ["promiseBroken", "promiseBrokenDetail"],
  "mostly rejected": ["mostlyRejected", "mostlyRejectedDetail"],
};

/** [headline, detail] of what the station or a report tells as `promise`; null where there is nothing to say. */
export function promiseWords(promise) {
  const keys = SAID[promise?.verdict];
  if (!keys) return null;
  const values = {
    good: number(promise.decided_good),
    rejected: number(promise.rejected),
    parts: number(promise.parts),
    promised: percent(promise.promised),
  };
  return [t(keys[0]), t(keys[1], values)];
}

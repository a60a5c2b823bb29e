// The test mode: parts are inspected and shown, and count nowhere.

import { post } from "./api.js";
import { ask, busy, button, el } from "./dom.js";
import { onEach, store } from "./store.js";
import { t } from "./strings.js";

/** Begin or end it; the station tells everybody. */
export const switchTest = (on, control, verdicts = false) => busy(control, () => post("/api/test", { on, verdicts }));

/** For an engineer, where no test runs: the banner has the way out of one. */
export function testSwitch() {
  const begin = button(t("testBegin"), asked, { class: "begin-test" });

  async function asked() {
    const tell = el("input", { type: "checkbox" });
    const choice = el("label", { class: "choose" }, tell, t("testTell"));
    if (await ask(t("testAsk"), [t("testDetail"), t("testLine"), choice], t("testStart")))
      await switchTest(true, begin, tell.checked);
  }

  const draw = () => (begin.hidden = Boolean(store.station?.test?.on));
  const end = onEach({ station: () => (begin.isConnected ? draw() : end()) });
  draw();
  return begin;
}

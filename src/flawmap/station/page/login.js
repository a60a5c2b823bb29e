// A token for a cookie.

import { post } from "./api.js";
import { el, field } from "./dom.js";
import { t } from "./strings.js";

export function login(root, begin) {
  const token = el("input", {
    type: "password",
    autocomplete: "current-password",
    required: true,
    spellcheck: "false",
  });
  const wrong = el("p", { class: "wrong", role: "alert" });
  const go = el("button", { class: "primary" }, t("logIn"));

  async function submit(event) {
    event.preventDefault();
    go.disabled = true;
    wrong.textContent = "";
    try {
      const session = await post("/api/session", { token: token.value.trim() });
      await begin(session);
    } catch (problem) {
      wrong.textContent = problem.message;
      token.select();
    } finally {
      go.disabled = false;
    }
  }

  root.append(
    el(
      "form",
      { class: "card login", onsubmit: submit },
      el("h1", {}, t("logIn")),
      field(t("token"), token),
      el("p", { class: "soft" }, t("tokenHint")),
      wrong,
      go,
    ),
  );
  token.focus();
}

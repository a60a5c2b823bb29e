// The station's answers as promises; docs/station-api.md says what they hold.

import { emit } from "./store.js";
import { t } from "./strings.js";
import { words } from "./words.js";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, { json, form, signal } = {}) {
  const options = { method, signal, body: form, headers: {}, credentials: "same-origin" };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(path, options).catch((problem) => {
    if (problem.name === "AbortError") throw problem;
    throw new ApiError(t("unreachable"), 0);
  });
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401 && path !== "/api/session") emit("session ended");
  const said = words(answer.code, answer.values, answer.error);
  throw new ApiError(said ?? t("failed", { status: response.status }), response.status);
}

export const get = (path, query, options) => request("GET", path + queryOf(query), options);
export const post = (path, json = {}) => request("POST", path, { json });
export const remove = (path) => request("DELETE", path);

/** POST files as fields `image`. */
export function send(path, files) {
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name);
  return request("POST", path, { form });
}

/** `?a=1&b=2`, without what is empty. */
export function queryOf(query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const pictureOf = (part, kind) => `/api/parts/${part.id}/${kind}`;

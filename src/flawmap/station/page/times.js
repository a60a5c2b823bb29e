// Times between the fields of a form, which have the browser's zone, and the station, which has UTC.

const pad = (value) => String(value).padStart(2, "0");

/** As a field of type datetime-local has it. */
export const localTime = (date) =>
  `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}T${pad(date.getHours())}:${pad(date.getMinutes())}`;

/** What such a field holds, for the station; empty stays empty. */
export const zoned = (value) => value && new Date(value).toISOString();

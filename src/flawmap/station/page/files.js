// The files in what was dropped, folders walked through, and which of them may be photos.

// Kinds that browsers do not know for images; the station reads them by their content.
const MORE = [".pgm", ".ppm", ".pbm", ".pnm", ".pam", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dcm", ".dicom"];

// Names of DICOM files: no suffix, or figures where it would be.
const BARE = /^[^.]+$|\.\d+$/;

/** What a dialog for files offers. */
export const IMAGES = ["image/*", ...MORE].join(",");

export function isImage(file) {
  const name = file.name.toLowerCase();
  return file.type.startsWith("image/") || MORE.some((suffix) => name.endsWith(suffix)) || BARE.test(name);
}

export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) return [await new Promise((found, failed) => entry.file(found, failed))];
  const reader = entry.createReader();
  const files = [];
  // A reader gives some hundred entries at a time, and none at the end.
  for (;;) {
    const some = await new Promise((found, failed) => reader.readEntries(found, failed));
    if (!some.length) return files;
    files.push(...(await Promise.all(some.map(walk))).flat());
  }
}

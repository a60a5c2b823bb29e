// What the station says, in the reader's language: by its code and figures (docs/station-api.md, Codes). What has no
// code, or one of a newer station, stays as the station wrote it.

import { fill, number, t } from "./strings.js";

const CODES = {
  // Why the station is not ready
  loading: ["the model is being loaded.", "das Modell wird geladen."],
  "no-model": [
    "there is no model yet. An engineer trains one under Train.",
    "noch ist kein Modell da. Ein Ingenieur lernt unter Anlernen eines an.",
  ],
  "model-failed": ["the model could not be loaded ({text}).", "das Modell ließ sich nicht laden ({text})."],
  "workers-starting": ["inspection is being started.", "die Prüfung wird gestartet."],

  // What is refused
  "queue-full": [
    "Too many parts at once: the queue is full. Try again in a moment.",
    "Zu viele Teile auf einmal: die Warteschlange ist voll. Gleich noch einmal versuchen.",
  ],
  "too-fast": [
    "More than {rate} photos a second. Send more slowly.",
    "Mehr als {rate} Fotos je Sekunde. Langsamer senden.",
  ],
  "too-many-readers": [
    "{limit} pages or programs watch this station already. Close some.",
    "{limit} Seiten oder Programme sehen dieser Station schon zu. Einige schließen.",
  ],
  "key-reused": [
    "This key was used for another part. Each part needs a key of its own.",
    "Dieser Schlüssel gehört schon zu einem anderen Teil. Jedes Teil braucht einen eigenen.",
  ],
  deadline: [
    "No verdict in time: too much to do, or its record or disk is slow. Try again.",
    "Kein Urteil in der Zeit: zu viel zu tun, oder Protokoll oder Platte sind langsam. Noch einmal versuchen.",
  ],
  token: [
    "This token is not valid. Ask an engineer for another; flawmap token add makes one.",
    "Dieser Token gilt nicht. Einen Ingenieur um einen anderen bitten; flawmap token add macht einen.",
  ],
  "wrong-tokens": ["Too many wrong tokens. Wait a minute.", "Zu viele falsche Token. Eine Minute warten."],
  role: ["This takes the role {needed}; yours is {role}.", "Dazu gehört die Rolle {needed}; Ihre ist {role}."],
  "no-image": ["This is no photo: PNG, JPEG, BMP, TIFF or WebP.", "Das ist kein Foto: PNG, JPEG, BMP, TIFF oder WebP."],
  bytes: ["The file is too large: {limit} MB at most.", "Die Datei ist zu groß: höchstens {limit} MB."],
  pixels: [
    "The photo is too large: {width}\u00a0×\u00a0{height} pixels, {limit} million at most.",
    "Das Foto ist zu groß: {width}\u00a0×\u00a0{height} Pixel, höchstens {limit} Millionen.",
  ],
  unreadable: [
    "The photo is damaged, or stored in a way that cannot be read.",
    "Das Foto ist beschädigt oder so gespeichert, dass es nicht lesbar ist.",
  ],
  mask: [
    "A mask by its name and look: send it with the defective photos. Good ones need none.",
    "Dem Namen und Aussehen nach eine Maske: zu den fehlerhaften Fotos geben. Gute brauchen keine.",
  ],
  thinned: ["The pictures of this part are no longer kept.", "Die Bilder dieses Teils sind nicht mehr aufbewahrt."],
  gone: ["That is no longer there.", "Das gibt es nicht mehr."],
  "worker-stopped": [
    "Inspection stopped at this photo. Try again.",
    "Die Prüfung brach bei diesem Foto ab. Noch einmal versuchen.",
  ],
  test: [
    "This part was a test and does not count: there is nothing to decide.",
    "Dieses Teil war ein Test und zählt nicht: da ist nichts zu entscheiden.",
  ],
  stopping: [
    "The station is being stopped. Try again later.",
    "Die Station wird gerade beendet. Später noch einmal versuchen.",
  ],
  record: [
    "The record cannot be written, so nothing is inspected. Call whoever keeps the station.",
    "Die Aufzeichnung lässt sich nicht schreiben, darum wird nichts geprüft. Bitte den Betreuer der Station rufen.",
  ],
  disk: [
    "The disk is full or cannot be written to. Call whoever keeps the station.",
    "Die Platte ist voll oder nicht beschreibbar. Bitte den Betreuer der Station rufen.",
  ],
  defect: [
    "An error in flawmap; the station's log says more.",
    "Ein Fehler in flawmap; das Protokoll der Station sagt mehr.",
  ],
  "no-previous": ["No other model was used before this one.", "Vor diesem war kein anderes Modell in Gebrauch."],
  incomplete: ["This model is not whole; copy it again.", "Dieses Modell ist unvollständig; noch einmal kopieren."],
  changed: [
    "Changed on the disk after it was loaded; it goes on as it was loaded. Make a new version.",
    "Nach dem Laden auf der Platte geändert; es gilt weiter, was geladen ist. Eine neue Version anlegen.",
  ],
  "no-threshold": ["This model has no threshold.", "Dieses Modell hat keine Schwelle."],
  area: [
    "Expected an area as 20 px, or where the model knows the scale 0.5 mm (wide) or 0.2 mm2.",
    "Erwartet: eine Fläche wie 20 px oder, wo das Modell den Maßstab kennt, 0.5 mm (breit) oder 0.2 mm2.",
  ],
  "smallest-of-station": [
    "The smallest place is in the station's own settings and holds for every model.",
    "Die kleinste Stelle steht in den Einstellungen der Station und gilt für alle Modelle.",
  ],

  // Why a threshold is suggested
  halfway: [
    "Halfway between the highest good and the lowest defective part decided",
    "In der Mitte zwischen dem höchsten guten und dem niedrigsten fehlerhaften entschiedenen Teil",
  ],
  "least-wrong": [
    "Good and defective parts overlap: here escape and overkill together are least",
    "Gute und fehlerhafte Teile überschneiden sich: hier sind Durchschlupf und Pseudofehler zusammen am kleinsten",
  ],

  // Training
  name: [
    "A name is 1 to 100 letters, without @ and /, and does not begin with a dot.",
    "Ein Name hat 1 bis 100 Zeichen, kein @ und kein /, und beginnt nicht mit einem Punkt.",
  ],
  setting: [
    "“{setting}” cannot be set here. Write section.name=value, without file names.",
    "„{setting}“ lässt sich hier nicht einstellen. Erwartet: abschnitt.name=wert, ohne Dateinamen.",
  ],
  "no-setting": ["There is no setting {setting}.", "Eine Einstellung {setting} gibt es nicht."],
  "setting-value": ["{setting} does not take this value: {why}", "{setting} nimmt diesen Wert nicht: {why}"],
  "no-good-photos": ["Add good photos first.", "Zuerst gute Fotos hinzufügen."],
  "training-runs": [
    "A training runs already. Wait for it, or stop it.",
    "Es läuft schon ein Anlernen. Abwarten oder abbrechen.",
  ],
  "photos-in-use": ["A training uses these photos.", "Ein Anlernen benutzt diese Fotos."],
  checking: ["The photos are being checked already.", "Die Fotos werden schon geprüft."],
  "no-parts": ["No recorded part still has its pictures.", "Kein erfasstes Teil hat noch seine Bilder."],
  cancelled: ["Stopped at step {step}.", "Bei Schritt {step} abgebrochen."],
  killed: [
    "Killed twice, and no further than step {step}. Start it anew, with fewer or smaller photos if memory was short.",
    "Zweimal abgebrochen und nicht über Schritt {step} hinaus. Neu starten, bei knappem Speicher mit weniger oder kleineren Fotos.",
  ],

  // What is wrong with a photo; {value} lies outside of {low} to {high}, where most are
  "mask-alone": [
    "a mask, but no defective photo has its name and size: not learnt from",
    "eine Maske, aber kein fehlerhaftes Foto hat ihren Namen und ihre Größe: daraus wird nicht gelernt",
  ],
  "depth-16": [
    "16 bits, no pixel above {largest}, read with full white {white}; most photos have 8 bits",
    "16 Bit, kein Pixel über {largest}, gelesen mit Vollweiß {white}; die meisten Fotos haben 8 Bit",
  ],
  "depth-8": [
    "8 bits, or its full white is stated; most photos have 16",
    "8 Bit, oder die Datei nennt ihr Vollweiß; die meisten Fotos haben 16",
  ],
  "depth-dark": [
    "16 bits, no pixel above {largest}: at full white {white} less than half as bright as most photos",
    "16 Bit, kein Pixel über {largest}: bei Vollweiß {white} nicht halb so hell wie die meisten Fotos",
  ],
  duplicate: ["the same file as {other}", "dieselbe Datei wie {other}"],
  size: ["{size} pixels, most have {most}", "{size} Pixel, die meisten haben {most}"],
  defective: [
    "looks defective to {ref}: score {score}, threshold {threshold}",
    "für {ref} fehlerhaft: Wert {score}, Schwelle {threshold}",
  ],
  "brightness-more": ["brighter than most", "heller als die meisten"],
  "brightness-less": ["darker than most", "dunkler als die meisten"],
  "contrast-more": ["more contrast than most", "kontrastreicher als die meisten"],
  "contrast-less": ["less contrast than most", "kontrastärmer als die meisten"],
  "sharpness-more": ["sharper or noisier than most", "schärfer oder verrauschter als die meisten"],
  "sharpness-less": ["less sharp than most", "unschärfer als die meisten"],
  "dark-more": ["underexposed: much is black", "unterbelichtet: vieles ist schwarz"],
  "dark-less": ["less black than most", "weniger Schwarz als die meisten"],
  "bright-more": ["overexposed: much is white", "überbelichtet: vieles ist weiß"],
  "bright-less": ["less white than most", "weniger Weiß als die meisten"],
  "blue-more": ["bluer than most", "blauer als die meisten"],
  "blue-less": ["less blue than most", "weniger blau als die meisten"],
  "red-more": ["redder than most", "röter als die meisten"],
  "red-less": ["less red than most", "weniger rot als die meisten"],
  "down-more": ["lies lower than most", "liegt tiefer als die meisten"],
  "down-less": ["lies higher than most", "liegt höher als die meisten"],
  "across-more": ["lies further right than most", "liegt weiter rechts als die meisten"],
  "across-less": ["lies further left than most", "liegt weiter links als die meisten"],
  "likeness-less": ["does not look like most", "sieht nicht aus wie die meisten"],
  "coarse-codes-more": ["other shapes than most", "andere Formen als die meisten"],
  "fine-codes-more": ["another texture than most", "andere Oberfläche als die meisten"],
};

// Figures in units that somebody at a line thinks in.
const UNITS = {
  bytes: ({ limit }) => ({ limit: Math.floor(limit / 2 ** 20) }),
  pixels: (values) => ({ ...values, limit: Math.floor(values.limit / 1e6) }),
  role: ({ needed, role }) => ({ needed: t(needed), role: t(role) }),
};

/** `text` is what the station wrote. */
export function words(code, values, text) {
  if (!Object.hasOwn(CODES, code ?? "")) return text;
  const figures = UNITS[code]?.(values) ?? values ?? {};
  return fill(CODES[code], { text, ...Object.fromEntries(Object.entries(figures).map(written)) });
}

// What decoding remarks on a file (data/images.py), by how it begins.
const REMARKS = {
  "damaged and read all the same": [
    "damaged, and read all the same: parts may be missing or wrong",
    "beschädigt und trotzdem gelesen: Teile können fehlen oder falsch sein",
  ],
  "channels that are neither colour nor alpha were left out": [
    "further channels (near infrared, say) were left out",
    "weitere Kanäle (etwa Nahinfrarot) wurden weggelassen",
  ],
};

/** A remark in the chosen language; one that this page does not know as the station wrote it. */
export function remarkOf(text) {
  const known = Object.keys(REMARKS).find((begins) => text.startsWith(begins));
  return known ? fill(REMARKS[known], {}) : text;
}

const written = ([name, value]) => [name, typeof value === "number" ? short(value) : value];
const short = (value) => number(value, Number.isInteger(value) ? 0 : 3);

/** Where the station asks for no tokens, everyone is `local`. */
export const whoOf = (name) => (name === "local" ? t("someoneHere") : name);

// Every word of the page, English and German side by side. {names} are filled in by `t`.

const STRINGS = {
  // The frame
  skip: ["Skip to the content", "Zum Inhalt springen"],
  live: ["Live", "Live"],
  review: ["Review", "Prüfen"],
  threshold: ["Threshold", "Schwelle"],
  train: ["Train", "Anlernen"],
  report: ["Report", "Bericht"],
  views: ["Views", "Ansichten"],
  language: ["Language", "Sprache"],
  logOut: ["Log out", "Abmelden"],
  close: ["Close", "Schließen"],
  cancel: ["Cancel", "Abbrechen"],
  loading: ["Loading …", "Lädt …"],
  failed: ["That did not work (status {status}).", "Das ging nicht (Status {status})."],
  unreachable: ["The station does not answer.", "Die Station antwortet nicht."],
  operator: ["operator", "Bediener"],
  engineer: ["engineer", "Ingenieur"],
  camera: ["camera", "Kamera"],

  // Notices
  lost: [
    "Connection lost – what is shown may be old. Trying again …",
    "Verbindung verloren – die Anzeige kann veraltet sein. Neuer Versuch …",
  ],
  notReady: ["The station is not ready: {why}", "Die Station ist nicht bereit: {why}"],
  silent: ["Camera silent: no part for {time}", "Kamera still: kein Teil seit {time}"],
  drifted: ["Parts look unlike the good ones trained on", "Teile sehen anders aus als die angelernten"],
  drifting: [
    "Parts begin to look unlike the good ones trained on",
    "Teile sehen allmählich anders aus als die angelernten",
  ],
  driftDetail: [
    "Check light, lens and position. Compared: the last {parts} parts.",
    "Licht, Objektiv und Lage prüfen. Verglichen: die letzten {parts} Teile.",
  ],
  promiseBroken: ["More good parts are rejected than expected", "Mehr gute Teile fallen aus als erwartet"],
  promiseBrokenDetail: [
    "{good} of {parts} parts were rejected and then decided good, {promised} at most were expected: they are unlike those trained on. Add photos of their kind, or check light and position.",
    "{good} von {parts} Teilen fielen aus und wurden dann für gut befunden, erwartet waren höchstens {promised}: Sie sehen anders aus als die angelernten. Fotos solcher Teile hinzufügen, oder Licht und Lage prüfen.",
  ],
  mostlyRejected: ["Most parts are rejected", "Die meisten Teile fallen aus"],
  mostlyRejectedDetail: [
    "{rejected} of {parts}. Decide some of them in Review: if they are good, they are unlike those trained on.",
    "{rejected} von {parts}. Einige davon unter Prüfen entscheiden: Sind sie gut, sehen sie anders aus als die angelernten.",
  ],

  // Test mode
  test: ["TEST", "TEST"],
  testMode: ["Test mode: parts do not count", "Testbetrieb: Teile zählen nicht"],
  testSilent: ["The line is told no verdicts.", "Die Linie bekommt keine Urteile."],
  testVerdicts: ["The line is told verdicts.", "Die Linie bekommt Urteile."],
  testBegin: ["Test mode …", "Testbetrieb …"],
  testAsk: ["Begin the test mode?", "Testbetrieb beginnen?"],
  testDetail: [
    "Parts are inspected and kept, and count in no report, threshold or counter, until it is ended.",
    "Teile werden geprüft und aufbewahrt, zählen aber in keinem Bericht, Zähler und keiner Schwelle, bis er endet.",
  ],
  testLine: [
    "Whoever sends photos is told no verdict meanwhile: a line that waits for one stands still.",
    "Wer Fotos sendet, bekommt so lange kein Urteil: eine Linie, die darauf wartet, steht.",
  ],
  testTell: ["Tell the line verdicts all the same", "Der Linie trotzdem Urteile geben"],
  testStart: ["Begin", "Beginnen"],
  testEnd: ["End the test mode", "Testbetrieb beenden"],
  kindTest: ["parts of the test mode", "Teile des Testbetriebs"],

  // Login
  logIn: ["Log in", "Anmelden"],
  token: ["Token", "Token"],
  tokenHint: [
    "It begins with fm- and comes from whoever keeps the station.",
    "Er beginnt mit fm- und kommt von dem, der die Station betreut.",
  ],
  cameraOnly: [
    "This token is for a camera and opens no views.",
    "Dieser Token ist für eine Kamera und öffnet keine Ansicht.",
  ],

  // Verdicts and parts
  pass: ["PASS", "i.\u00a0O."],
  reject: ["REJECT", "n.\u00a0i.\u00a0O."],
  doubt: ["DOUBT", "UNKLAR"],
  passed: ["passed", "i.\u00a0O."],
  rejected: ["rejected", "n.\u00a0i.\u00a0O."],
  doubtful: ["doubtful", "unklar"],
  lastHour: ["last 60 min", "letzte 60 min"],
  thisShift: ["This shift, since {time}", "Diese Schicht, seit {time}"],
  part: ["Part {label}", "Teil {label}"],
  spoken: ["Part {label}: {verdict}", "Teil {label}: {verdict}"],
  scoreOf: ["Score {score}, threshold {threshold}", "Wert {score}, Schwelle {threshold}"],
  asRare: ["{share} of good parts score as high", "{share} der guten Teile haben so hohe Werte"],
  higherThanAll: ["higher than all {n} good parts", "höher als alle {n} guten Teile"],
  higherThanOne: ["higher than the one good part", "höher als das eine gute Teil"],
  lot: ["Lot", "Los"],
  model: ["Model", "Modell"],
  heat: ["Heat map", "Wärmebild"],
  heatStrength: ["Heat map, strength", "Wärmebild, Stärke"],
  zoom: ["Zoom", "Zoom"],
  zoomIn: ["Zoom in (+)", "Vergrößern (+)"],
  zoomOut: ["Zoom out (−)", "Verkleinern (−)"],
  zoomFit: ["All of the photo (0)", "Ganzes Foto (0)"],
  pictureKeys: [
    "Photo: wheel or + and − zoom, dragging or arrows move, 0 shows all of it, H shows heat",
    "Foto: Rad oder + und − zoomen, Ziehen oder Pfeile bewegen, 0 zeigt es ganz, H zeigt das Wärmebild",
  ],
  heatAt: ["{percent}\u00a0%", "{percent}\u00a0%"],
  thinned: ["The pictures of this part are no longer kept.", "Die Bilder dieses Teils sind nicht mehr aufbewahrt."],
  noPicture: ["The picture could not be loaded.", "Das Bild war nicht zu laden."],
  partPicture: ["Picture of part {label}", "Bild von Teil {label}"],
  waiting: ["Waiting for the first part", "Warten auf das erste Teil"],
  tryPhoto: ["Inspect a photo …", "Ein Foto prüfen …"],
  lastParts: ["The last parts", "Die letzten Teile"],
  held: ["Held", "Angehalten"],
  backToLive: ["Back to live", "Zurück zu live"],
  unlike: ["Unlike those trained on:", "Anders als angelernt:"],
  remarks: ["Its file:", "Zur Datei:"],
  thanMost: [" than most", " als die meisten"],
  noPlace: ["no place of {n} pixels or more", "keine Stelle ab {n} Pixeln"],
  regions: ["{n}\u00a0places", "{n}\u00a0Stellen"],
  region: ["1\u00a0place", "1\u00a0Stelle"],
  decidedPass: ["{who} decided: PASS", "{who} entschied: i.\u00a0O."],
  decidedReject: ["{who} decided: REJECT", "{who} entschied: n.\u00a0i.\u00a0O."],
  decideThis: ["Decide …", "Entscheiden …"],
  markGood: ["Is good", "Ist i.\u00a0O."],
  markDefective: ["Is defective", "Ist n.\u00a0i.\u00a0O."],
  takeBack: ["Take the decision back", "Entscheidung zurücknehmen"],

  // Parts
  serial: ["Serial number", "Seriennummer"],
  match: ["Compare", "Vergleich"],
  matchBegins: ["begins with", "beginnt mit"],
  matchContains: ["contains", "enthält"],
  matchExactly: ["is exactly", "ist genau"],
  kind: ["Verdict", "Urteil"],
  kindAll: ["all", "alle"],
  kindOpen: ["not decided yet", "noch zu entscheiden"],
  kindEscaped: ["passed, then decided defective", "i.\u00a0O., dann als n.\u00a0i.\u00a0O. entschieden"],
  kindOverkill: ["rejected, then decided good", "n.\u00a0i.\u00a0O., dann als i.\u00a0O. entschieden"],
  find: ["Find", "Suchen"],
  nothingFound: ["No part found", "Kein Teil gefunden"],
  nothingFoundHint: [
    "A piece of the number will do with “contains”. A part without a number is found by #417, as it is called here.",
    "Mit „enthält“ genügt ein Stück der Nummer. Ein Teil ohne Nummer findet man mit #417, wie es hier heißt.",
  ],
  newer: ["‹ Newer", "‹ Neuere"],
  older: ["Older ›", "Ältere ›"],
  pageOf: ["{from} to {to} of {n}", "{from} bis {to} von {n}"],
  decidedAs: ["decided:", "entschieden:"],

  // Review
  toReview: ["{n} to review", "{n} zu prüfen"],
  allReviewed: ["Everything is reviewed", "Alles ist geprüft"],
  allReviewedHint: [
    "Doubtful and rejected parts appear here as they come.",
    "Unklare und n.\u00a0i.\u00a0O.-Teile erscheinen hier, sobald sie kommen.",
  ],
  confirm: ["Confirm", "Bestätigen"],
  overrule: ["Overrule", "Überstimmen"],
  undo: ["Take back: part {label} is open again", "Zurücknehmen: Teil {label} ist wieder offen"],
  takenBack: ["Part {label} is open again", "Teil {label} ist wieder offen"],
  keys: [
    "Enter confirms · X overrules · arrows move · U takes back · N: a note, until Enter",
    "Enter bestätigt · X überstimmt · Pfeile blättern · U nimmt zurück · N: Bemerkung, bis Enter",
  ],
  previous: ["Previous part", "Voriges Teil"],
  next: ["Next part", "Nächstes Teil"],
  decided: ["Part {label}: {verdict}", "Teil {label}: {verdict}"],
  leans: ["leans to {verdict}", "eher {verdict}"],
  note: ["Note", "Bemerkung"],
  noteOptional: ["Note (optional)", "Bemerkung (optional)"],

  // Threshold
  line: ["Threshold line", "Schwellenlinie"],
  lineHint: ["Drag the line, or use the arrow keys.", "Linie ziehen oder Pfeiltasten benutzen."],
  escape: ["Escape", "Durchschlupf"],
  notKnown: ["not known", "unbekannt"],
  atLeast: ["{share} or more", "{share} oder mehr"],
  noPassChecked: [
    "No part that passed was ever checked; mark those found later under Parts.",
    "Noch wurde kein i.\u00a0O.-Teil nachgeprüft; später gefundene unter Teile eintragen.",
  ],
  nothingPassed: ["no part passed", "kein Teil war i.\u00a0O."],
  escapeUnchecked: [
    "none of the {passed} parts that passed was checked",
    "keines der {passed} i.\u00a0O.-Teile wurde nachgeprüft",
  ],
  escapeFound: [
    "{escaped} of {defective} defective parts had passed;",
    "{escaped} von {defective} fehlerhaften Teilen galten als i.\u00a0O.;",
  ],
  escapeChecked: [
    "{checked} of {passed} passed parts were checked",
    "{checked} von {passed} i.\u00a0O.-Teilen nachgeprüft",
  ],
  nothingDecided: ["no part was decided defective yet", "noch wurde kein Teil als fehlerhaft entschieden"],
  escapeMeans: [
    "defective parts that would pass, of {n} decided",
    "fehlerhafte Teile, die durchgingen, von {n} entschiedenen",
  ],
  overkill: ["Overkill", "Pseudofehler"],
  overkillMeans: ["good parts that would be rejected, of {n}", "gute Teile, die abgewiesen würden, von {n}"],
  rejectShare: ["Rejected", "Abgewiesen"],
  rejectShareMeans: ["of all {n} recorded parts", "von allen {n} erfassten Teilen"],
  heldOut: ["good photos of the training", "gute Fotos des Anlernens"],
  decidedGood: ["decided good", "als gut entschieden"],
  decidedBad: ["decided defective", "als fehlerhaft entschieden"],
  allParts: ["all parts", "alle Teile"],
  bandOfDoubt: ["band of doubt", "unklarer Bereich"],
  roots: ["heights are square roots of counts", "Höhen sind Wurzeln der Anzahlen"],
  escapeLimits: [
    "Escape knows only parts that somebody decided.",
    "Der Durchschlupf kennt nur Teile, die jemand entschieden hat.",
  ],
  below: [
    "Just below the line: these pass, unless in doubt",
    "Knapp unter der Linie: diese sind i.\u00a0O., wenn nicht unklar",
  ],
  above: [
    "Just above the line: these are rejected, unless in doubt",
    "Knapp über der Linie: diese sind n.\u00a0i.\u00a0O., wenn nicht unklar",
  ],
  none: ["none", "keine"],
  useSuggested: ["Suggested {score}", "Vorschlag {score}"],
  useCurrent: ["Back to {score}", "Zurück zu {score}"],
  apply: ["Apply {score}", "{score} anwenden"],
  applyAsk: ["Use threshold {score} from now on?", "Ab jetzt Schwelle {score} benutzen?"],
  applyDetail: [
    "A new version of {name} is made and used at once. Earlier verdicts stay as they are.",
    "Eine neue Version von {name} entsteht und gilt sofort. Frühere Urteile bleiben, wie sie sind.",
  ],
  fromTo: ["Threshold {from} → {to}", "Schwelle {from} → {to}"],
  applied: ["{ref} is in use.", "{ref} ist in Gebrauch."],
  smallestPlace: ["Smallest place", "Kleinste Stelle"],
  set: ["Set", "Einstellen"],
  areaAsk: ["Leave out places smaller than {area} from now on?", "Ab jetzt Stellen unter {area} weglassen?"],
  areaDetail: [
    "Verdicts do not change: they are by the score alone.",
    "Urteile ändern sich nicht: sie richten sich allein nach dem Wert.",
  ],
  switchedMeanwhile: [
    "Nothing was changed: {ref} has come into use meanwhile.",
    "Nichts wurde geändert: inzwischen ist {ref} in Gebrauch.",
  ],
  engineersOnly: ["Changing it needs an engineer's token.", "Ändern darf es nur ein Token der Rolle Ingenieur."],
  noModel: ["No model is in use yet.", "Noch ist kein Modell in Gebrauch."],
  versions: ["Versions", "Versionen"],
  noVersions: ["There is none yet.", "Noch gibt es keine."],
  thresholdOf: ["threshold of {ref}", "Schwelle von {ref}"],
  placeOf: ["smallest place of {ref}", "kleinste Stelle von {ref}"],
  fromTraining: ["training", "Anlernen"],
  fromFolder: ["models folder", "Modellordner"],
  someoneHere: ["someone here", "jemand hier"],
  rollBack: ["Roll back to {ref}", "Zurück auf {ref}"],
  rollBackAsk: ["Roll back to {ref}?", "Zurück auf {ref}?"],
  rollBackDetail: [
    "{from} stays in the list and can be used again.",
    "{from} bleibt in der Liste und kann wieder benutzt werden.",
  ],
  use: ["Use", "Benutzen"],
  useAsk: ["Use {ref} from now on?", "Ab jetzt {ref} benutzen?"],
  current: ["in use", "in Gebrauch"],
  version: ["Version", "Version"],
  made: ["Made", "Erstellt"],
  origin: ["Origin", "Herkunft"],
  by: ["By", "Von"],

  // Train
  dataSet: ["1 · Photos", "1 · Fotos"],
  newDataSet: ["New data set", "Neuer Datensatz"],
  chooseDataSet: ["Data set", "Datensatz"],
  name: ["Name", "Name"],
  create: ["Create", "Anlegen"],
  deleteDataSet: ["Delete data set", "Datensatz löschen"],
  deleteAsk: ["Delete {name} with its {n} photos?", "{name} mit {n} Fotos löschen?"],
  dropGood: ["Drop good photos here", "Gute Fotos hier ablegen"],
  dropBad: ["Drop defective photos, if any", "Fehlerhafte Fotos ablegen, falls es welche gibt"],
  photosGood: ["{n} good", "{n} gute"],
  photosBad: ["{n} defective", "{n} fehlerhafte"],
  masksOfBad: ["{n} masks for them", "{n} Masken dazu"],
  files: ["Files …", "Dateien …"],
  folder: ["Folder …", "Ordner …"],
  sending: ["Sending {done} of {total} …", "Sende {done} von {total} …"],
  refusedFiles: ["{n} not taken:", "{n} nicht angenommen:"],
  leftOutOne: ["1 file left out, no photo: {names}", "1 Datei ausgelassen, kein Foto: {names}"],
  leftOut: ["{n} files left out, no photos: {names}", "{n} Dateien ausgelassen, keine Fotos: {names}"],
  notAnImage: ["No image files among these.", "Keine Bilddateien darunter."],
  check: ["Check photos", "Fotos prüfen"],
  checking: ["Checking …", "Prüfe …"],
  checkedFine: ["Nothing is wrong with the photos.", "An den Fotos ist nichts auszusetzen."],
  unchecked: ["Not checked since the last change.", "Seit der letzten Änderung nicht geprüft."],
  withProblems: ["To look at: {n}", "Anzusehen: {n}"],
  problemCount: ["{problem}: {n}", "{problem}: {n}"],
  removePhoto: ["Remove {name}", "{name} entfernen"],
  removeAll: ["Remove all of these", "Alle diese entfernen"],
  duplicate: ["duplicate", "doppelt"],
  size: ["odd size", "andere Größe"],
  blurred: ["blurred", "unscharf"],
  outlier: ["unlike the others", "anders als die anderen"],
  exposure: ["exposure", "Belichtung"],
  unreadable: ["unreadable", "unlesbar"],
  depth: ["bit depth", "Bittiefe"],
  mask: ["mask", "Maske"],
  training: ["2 · Training", "2 · Anlernen"],
  recipe: ["Recipe", "Rezept"],
  recipeFast: [
    "The usual one: a small model, learnt in about a quarter of an hour on two cores.",
    "Das übliche: ein kleines Modell, auf zwei Kernen in etwa einer Viertelstunde angelernt.",
  ],
  recipeAccurate: [
    "As the usual one, at a higher resolution: finds smaller defects, and a part takes longer.",
    "Wie das übliche, mit höherer Auflösung: findet kleinere Fehler, und ein Teil dauert länger.",
  ],
  recipeDemo: [
    "As the usual one, for small photos of 128×128 pixels: some minutes.",
    "Wie das übliche, für kleine Fotos von 128×128 Pixeln: einige Minuten.",
  ],
  recipePaper: [
    "The published method unchanged: many hours, and it needs a GPU.",
    "Das veröffentlichte Verfahren unverändert: viele Stunden, und es braucht eine GPU.",
  ],
  settings: ["Settings, one a line", "Einstellungen, je Zeile eine"],
  expert: ["More", "Mehr"],
  start: ["Start training", "Anlernen starten"],
  noPhotos: ["Add good photos first.", "Zuerst gute Fotos hinzufügen."],
  running: ["running", "läuft"],
  done: ["done", "fertig"],
  cancelled: ["cancelled", "abgebrochen"],
  failedState: ["failed", "gescheitert"],
  stageDetect: ["Learning", "Lernen"],
  stageRefine: ["Refining", "Verfeinern"],
  step: ["{stage}: step {step} of {steps}", "{stage}: Schritt {step} von {steps}"],
  loss: ["Loss", "Verlust"],
  stop: ["Stop training", "Anlernen abbrechen"],
  stopAsk: ["Stop this training?", "Dieses Anlernen abbrechen?"],
  stopDetail: ["What it has learnt so far is lost.", "Was bisher gelernt wurde, geht verloren."],
  sizes: [
    "Photos of {photo} pixels are inspected at {network}.",
    "Fotos mit {photo} Pixeln werden mit {network} geprüft.",
  ],
  smallest: [
    "Smallest spot found in 9 of 10: {size} pixels of the photo (contrast {contrast}, {photos} photos).",
    "Kleinster Fleck, der in 9 von 10 Fällen gefunden wird: {size} Pixel des Fotos (Kontrast {contrast}, {photos} Fotos).",
  ],
  atMost: ["at most {n}", "höchstens {n}"],
  largerThan: ["larger than {n}", "größer als {n}"],
  firstMaps: ["First maps of the new model", "Erste Bilder des neuen Modells"],
  earlier: ["Trainings", "Anlern-Läufe"],
  compare: ["3 · Compare and promote", "3 · Vergleichen und einsetzen"],
  compareStart: ["Compare on recorded parts", "An erfassten Teilen vergleichen"],
  comparing: ["Comparing {done} of {total} …", "Vergleiche {done} von {total} …"],
  against: ["Against {ref}, on {total} parts", "Gegen {ref}, an {total} Teilen"],
  agree: ["agree", "gleich"],
  newRejects: ["newly rejected", "neu n.\u00a0i.\u00a0O."],
  newPasses: ["newly passed", "neu i.\u00a0O."],
  right: ["right of {n} decided", "richtig von {n} entschiedenen"],
  rightPair: ["{new} new, {current} now", "neu {new}, jetzt {current}"],
  changes: ["Verdicts that change", "Urteile, die sich ändern"],
  promote: ["Promote {name}", "{name} einsetzen"],
  promoteAsk: ["Use the new model from now on?", "Das neue Modell ab jetzt benutzen?"],
  promoteDetail: [
    "It becomes a new version of {name}. The one in use now can be rolled back to.",
    "Es wird eine neue Version von {name}. Das jetzige bleibt, man kann zurück.",
  ],
  promoted: ["Became {ref}.", "Wurde {ref}."],
  trainFirst: [
    "When a training is done, its model can be compared and promoted here.",
    "Wenn ein Anlernen fertig ist, wird sein Modell hier verglichen und eingesetzt.",
  ],

  // Report
  runningShift: ["Running shift", "Laufende Schicht"],
  period: ["Period", "Zeitraum"],
  from: ["From", "Von"],
  to: ["To", "Bis"],
  ofLot: ["A lot", "Ein Los"],
  what: ["Report of", "Bericht über"],
  show: ["Show", "Zeigen"],
  print: ["Print", "Drucken"],
  save: ["Save as one file", "Als eine Datei sichern"],
  allTheParts: ["All parts of it", "Alle Teile daraus"],
  csv: ["Records as CSV", "Aufzeichnungen als CSV"],
  titleShift: ["Shift of {time}", "Schicht vom {time}"],
  titleLot: ["Lot {lot}", "Los {lot}"],
  titlePeriod: ["{from} to {to}", "{from} bis {to}"],
  madeBy: ["{station} · made {time} by {who}", "{station} · erstellt {time} von {who}"],
  inspected: ["inspected", "geprüft"],
  afterReview: ["{n} after review", "{n} nach Prüfung"],
  overruled: ["overruled", "überstimmt"],
  ofDecided: ["of {n} decided", "von {n} entschiedenen"],
  openDoubts: ["{n} not decided", "{n} nicht entschieden"],
  share: ["{share} of all", "{share} von allen"],
  scores: ["Scores", "Werte"],
  scoresLine: [
    "median {median}, 95 % below {p95}, highest {highest}",
    "Median {median}, 95 % unter {p95}, höchster {highest}",
  ],
  time: ["Time a part", "Zeit je Teil"],
  timeLine: ["median {median} ms, 99 % below {p99} ms", "Median {median} ms, 99 % unter {p99} ms"],
  hours: ["Hour by hour", "Stunde für Stunde"],
  hour: ["Hour", "Stunde"],
  modelsUsed: ["Models", "Modelle"],
  parts: ["Parts", "Teile"],
  first: ["First", "Erstes"],
  last: ["Last", "Letztes"],
  modelChanges: ["Changes of the model", "Wechsel des Modells"],
  actionUse: ["switched to {ref}", "gewechselt auf {ref}"],
  actionBack: ["rolled back to {ref}", "zurück auf {ref}"],
  actionBegan: ["switched to {ref}, in use at the start", "gewechselt auf {ref}, zu Beginn in Gebrauch"],
  actionAdd: ["added {ref}", "{ref} hinzugefügt"],
  partsShown: ["Rejected, doubtful and overruled parts", "N.\u00a0i.\u00a0O.-Teile, unklare und überstimmte"],
  truncated: [
    "These are the first {n}, the highest score first; the CSV has all.",
    "Dies sind die ersten {n}, höchster Wert zuerst; die CSV hat alle.",
  ],
  noParts: ["No rejected, doubtful or overruled part.", "Kein n.\u00a0i.\u00a0O.-Teil, kein unklares oder überstimmtes."],
  original: ["photo", "Foto"],
  overlay: ["overlay", "Überlagerung"],
  chain: ["Records {first} to {last} of the chain, head {head}", "Einträge {first} bis {last} der Kette, Kopf {head}"],
  noReport: ["No parts in this period.", "Keine Teile in diesem Zeitraum."],
  noReportLot: ["No parts of lot {lot}.", "Keine Teile von Los {lot}."],
};

const LANGUAGES = ["en", "de"];
const LOCALES = { en: "en-GB", de: "de-DE" }; // of numbers and times; hours from 0 to 23 in both
const KEPT = "flawmap.language";

let chosen = LANGUAGES.indexOf(localStorage.getItem(KEPT) ?? (navigator.language.startsWith("de") ? "de" : "en"));
if (chosen < 0) chosen = 0;

export const languages = LANGUAGES;
export const language = () => LANGUAGES[chosen];

const locale = () => LOCALES[language()];

export function speak(name) {
  chosen = LANGUAGES.indexOf(name);
  localStorage.setItem(KEPT, name);
}

/** One of a pair, English and German, with its {names} filled in. */
export const fill = (pair, values) => pair[chosen].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

export const t = (key, values = {}) => fill(STRINGS[key], values);

/** A count or share in the language's way of writing. */
export const number = (value, digits = 0) =>
  value.toLocaleString(locale(), { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const score = (value, digits = 3) => (value === null || value === undefined ? "–" : number(value, digits));

export const percent = (share, digits = 1) =>
  share === null || share === undefined ? "–" : `${number(100 * share, digits)}\u00a0%`;

export const clock = (time) =>
  new Date(time).toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const hour = (time) => new Date(time).toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit" });

export const day = (time) => new Date(time).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "short" });

/** 40 s, 12 min, 3 h. */
export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** What a part is called: its label, else the head of its id. */
export const nameOf = (part) => part.label || `#${part.seq}`;

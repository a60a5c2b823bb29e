// The station's events. A browser reconnects by itself with Last-Event-ID, but gives up after an error status and does
// not notice a line that went dead without a word; both are seen to here.

const EVENTS = ["verdict", "test", "decision", "unlike", "model", "station", "training", "lag"];
const SILENT_MS = 12000; // the station sends something every 5 s
const AGAIN_MS = 2000;

/** Listen from record `after` on. read(event, data); online(true or false); refused() when no stream is answered. */
export function listen(after, { read, online, refused }) {
  let source = null;
  let heard = 0;
  let retry = 0;

  function open() {
    source?.close();
    heard = Date.now();
    source = new EventSource(`/api/events?after=${after}`);
    source.onopen = () => hear();
    source.onerror = lost;
    for (const event of EVENTS) source.addEventListener(event, (message) => take(event, message));
  }

  function hear() {
    heard = Date.now();
    online(true);
  }

  function take(event, message) {
    hear();
    if (Number(message.lastEventId)) after = Number(message.lastEventId);
    read(event, JSON.parse(message.data));
  }

  function lost() {
    online(false);
    if (source.readyState !== EventSource.CLOSED) return;
    refused();
    clearTimeout(retry);
    retry = setTimeout(open, AGAIN_MS);
  }

  const watch = setInterval(() => {
    if (Date.now() - heard < SILENT_MS) return;
    online(false);
    open();
  }, 1000);

  open();
  return () => {
    clearInterval(watch);
    clearTimeout(retry);
    source.close();
  };
}

// One connection per browser and person, shared by all tabs: over HTTP/1.1 a browser opens only six to a host, and
// a stream per tab would hang the seventh. Tabs say {kind: "hello", url} and {kind: "bye"}; they hear
// {kind: "change", topic, id}, {kind: "beat"}, {kind: "state", state: "live" | "lost" | "closed"}.
const SILENT_MS = 40_000;
const AGAIN_MS = 5_000;

const ports = new Set();
let source = null;
let url = "";
let heard = 0;
let state = "lost";
let again = 0;

const tell = (message) => ports.forEach((port) => port.postMessage(message));

function become(next) {
  state = next;
  tell({ kind: "state", state });
}

function open() {
  clearTimeout(again);
  source?.close();
  heard = Date.now();
  source = new EventSource(url);
  source.onopen = () => {
    heard = Date.now();
    become("live");
  };
  source.addEventListener("beat", () => {
    heard = Date.now();
    tell({ kind: "beat" });
  });
  source.onmessage = ({ data }) => {
    heard = Date.now();
    const { topic, id } = JSON.parse(data);
    tell({ kind: "change", topic, id });
  };
  source.onerror = () => {
    // CLOSED is the server's refusal (signed out, no such page): the browser will not try again by itself.
    const refused = source.readyState === EventSource.CLOSED;
    become(refused ? "closed" : "lost");
    if (refused && ports.size) again = setTimeout(open, AGAIN_MS * 3);
  };
}

setInterval(() => {
  if (!source || !ports.size || Date.now() - heard < SILENT_MS) return;
  become("lost");
  open();
}, AGAIN_MS);

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data.kind === "hello") {
      ports.add(port);
      if (!source || data.url !== url || source.readyState === EventSource.CLOSED) {
        url = data.url;
        open();
      } else {
        port.postMessage({ kind: "state", state });
      }
    } else if (data.kind === "bye") {
      ports.delete(port);
      if (!ports.size) {
        source?.close();
        source = null;
      }
    }
  };
  port.start();
};

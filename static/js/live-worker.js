// One connection per browser and person, shared by all tabs: over HTTP/1.1 a browser opens only six to a host, and
// a stream per tab would hang the seventh. Tabs say {kind: "hello", url, ageMs} and {kind: "bye"}; they hear
// {kind: "change", topic, id}, {kind: "beat"}, {kind: "state", state: "live" | "lost" | "closed"}.
const SILENT_MS = 40_000;
const AGAIN_MS = 5_000;
const REMEMBERED_MS = 15_000;

const ports = new Set();
let source = null;
let url = "";
let heard = 0;
let state = "lost";
let again = 0;
// What was heard of late, for a tab that was drawn before it was told and says hello after.
let recent = [];
let coveredFrom = 0;

const tell = (message) => ports.forEach((port) => port.postMessage(message));

function become(next) {
  state = next;
  tell({ kind: "state", state });
}

function open(ageMs = 0) {
  clearTimeout(again);
  source?.close();
  heard = Date.now();
  coveredFrom = heard - ageMs;
  recent = [];
  source = new EventSource(`${url}&ago_ms=${ageMs}`);
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
    recent = recent.filter(({ at }) => at > heard - REMEMBERED_MS);
    recent.push({ at: heard, topic, id });
    tell({ kind: "change", topic, id });
  };
  source.onerror = () => {
    // CLOSED is the server's refusal (signed out, no such page): the browser will not try again by itself.
    const refused = source.readyState === EventSource.CLOSED;
    become(refused ? "closed" : "lost");
    if (refused && ports.size) again = setTimeout(() => open(REMEMBERED_MS), AGAIN_MS * 3);
  };
}

function catchUp(port, since) {
  if (since < Math.max(coveredFrom, Date.now() - REMEMBERED_MS)) port.postMessage({ kind: "change", topic: "*" });
  for (const { at, topic, id } of recent) if (at >= since) port.postMessage({ kind: "change", topic, id });
}

setInterval(() => {
  if (!source || !ports.size || Date.now() - heard < SILENT_MS) return;
  become("lost");
  open(REMEMBERED_MS);
}, AGAIN_MS);

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data.kind === "hello") {
      ports.add(port);
      if (!source || data.url !== url || source.readyState === EventSource.CLOSED) {
        url = data.url;
        open(data.ageMs);
      } else {
        port.postMessage({ kind: "state", state });
        catchUp(port, Date.now() - data.ageMs);
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

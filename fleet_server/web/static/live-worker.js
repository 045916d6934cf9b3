// One event stream for all tabs of this browser. HTTP/1.1 allows six connections to a server, so with a stream per tab the
// seventh tab would wait for ever.
const REOPEN_MS = 3000;
const ports = new Set();
let stream, state = "connecting";

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function become(next) {
  state = next;
  tell({ state });
}

function open() {
  stream = new EventSource("/v1/events");
  stream.addEventListener("hello", () => become("live"));
  stream.addEventListener("change", (event) => tell({ change: event.data }));
  stream.onerror = () => {
    become("reconnecting");
    // A refusal (signed out, server starting) closes the stream for good; a lost connection is retried by the browser.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => ports.size && open(), REOPEN_MS);
  };
}

self.onconnect = ({ ports: [port] }) => {
  ports.add(port);
  port.onmessage = ({ data }) => {
    if (data !== "bye") return;
    ports.delete(port);
    if (!ports.size) { stream.close(); stream = undefined; }
  };
  if (stream) port.postMessage({ state });
  else open();
};

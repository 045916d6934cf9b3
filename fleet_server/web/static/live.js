// Keeps a page live: when something changed, the page fetches itself again and replaces its [data-live] regions, which the
// server has rendered. Nothing is rendered here but the counting of seconds.
const QUIET_MS = 1000;      // at most one fetch a second
const STALE_MS = 15000;     // and one now and then though nothing was said: silence is news too
const WORDS = { live: "live", connecting: "connecting", reconnecting: "reconnecting" };

const regions = () => [...document.querySelectorAll("[data-live]")];
const badge = document.getElementById("live");

function show(state) {
  if (!badge || badge.dataset.state === state) return;
  badge.dataset.state = state;
  badge.lastElementChild.textContent = WORDS[state] ?? state;
}

// --- replacing what the server rendered anew -----------------------------------------------------------------------
function keyOf(element) {
  if (!element || element === document.body) return undefined;
  return element.id ? `#${CSS.escape(element.id)}` : element.getAttribute("href") && `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
}

function replace(region, fresh) {
  // What a person has opened to type in stays as it is until it is closed or sent.
  if (!fresh || region.innerHTML === fresh.innerHTML || region.querySelector("details[open]")) return;
  const focused = region.contains(document.activeElement) ? keyOf(document.activeElement) : undefined;
  region.replaceChildren(...fresh.childNodes);
  if (focused) region.querySelector(focused)?.focus({ preventScroll: true });
}

let loading = false, wanted = false, fetchedAt = performance.now();

async function refresh() {
  if (loading || document.hidden) { wanted = true; return; }
  loading = true;
  wanted = false;
  try {
    const answer = await fetch(location.href, { headers: { "x-fragment": "1" }, redirect: "error" });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) throw new Error(`${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    fetchedAt = performance.now();
    for (const region of regions()) replace(region, fresh.getElementById(region.id));
    count();
  } catch {
    show("reconnecting");
  } finally {
    loading = false;
    setTimeout(() => wanted && refresh(), QUIET_MS);
  }
}

let due;
function changed(change) {
  const topic = change.split(":")[0];
  const concerns = regions().some((region) => {
    const names = region.dataset.live.split(" ");
    return topic === "all" || names.includes(topic) || names.includes(change);
  });
  if (!concerns) return;
  const wait = Math.max(0, QUIET_MS - (performance.now() - fetchedAt));
  due ??= setTimeout(() => { due = undefined; refresh(); }, wait);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && wanted) refresh(); });

// --- seconds ---------------------------------------------------------------------------------------------------------
function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function count() {
  const passed = (performance.now() - fetchedAt) / 1000;
  for (const time of document.querySelectorAll("time[data-elapsed]")) time.textContent = span(+time.dataset.elapsed + passed);
  for (const time of document.querySelectorAll("time[data-left]")) time.textContent = span(+time.dataset.left - passed);
}

setInterval(() => {
  count();
  if (performance.now() - fetchedAt > STALE_MS) refresh();
}, 1000);

// --- the stream ------------------------------------------------------------------------------------------------------
let wasLive = false;
function onState(state) {
  show(state);
  if (state === "live" && wasLive) refresh(); // what changed while the stream was down was not told
  wasLive ||= state === "live";
}

function listen() {
  if (typeof SharedWorker === "undefined") { // some mobile browsers: one stream per tab, and few tabs
    const stream = new EventSource("/v1/events");
    stream.addEventListener("hello", () => onState("live"));
    stream.addEventListener("change", (event) => changed(event.data));
    stream.onerror = () => onState("reconnecting");
    return;
  }
  const { port } = new SharedWorker("/static/live-worker.js", { name: "edgefleet" });
  port.onmessage = ({ data }) => (data.state ? onState(data.state) : changed(data.change));
  addEventListener("pagehide", () => port.postMessage("bye"));
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

listen();

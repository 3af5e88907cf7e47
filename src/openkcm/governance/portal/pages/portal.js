// The page's life: a stream of news, and a fresh reading of each tenant region that the news concerns. Sends no orders.
"use strict";
const rows = document.getElementById("rows");
const events = document.getElementById("events");
const live = document.getElementById("live");
const waiting = new Map();

async function read(path) {
  const answer = await fetch("/cmk/v1" + path, { headers: { Accept: "application/json" } });
  if (answer.status === 401) { location.reload(); }
  return answer.ok ? answer.json() : null;
}

function cell(row, field) {
  return row.querySelector(`[data-field="${field}"]`);
}

function rowOf(tenant, region) {
  for (const row of rows.children) {
    if (row.dataset.tenant === tenant && row.dataset.region === region) { return row; }
  }
  const row = rows.insertRow();
  row.dataset.tenant = tenant;
  row.dataset.region = region;
  row.insertCell().textContent = tenant;
  row.insertCell().textContent = region;
  for (const field of ["state", "routine", "critical", "nodes"]) { row.insertCell().dataset.field = field; }
  document.getElementById("nothing")?.remove();
  return row;
}

function standing(lane) {
  const by = lane.certain_by === null ? "" : ", certain by " + new Date(lane.certain_by).toLocaleTimeString();
  return `${lane.status} (${lane.acked} of ${lane.of}${by})`;
}

async function refresh(tenant, region) {
  const path = `/tenants/${encodeURIComponent(tenant)}/regions/${encodeURIComponent(region)}`;
  const [now, sync] = await Promise.all([read(path), read(path + "/sync")]);
  if (now === null || sync === null) { return; }
  const row = rowOf(tenant, region);
  cell(row, "state").textContent = now.state;
  cell(row, "state").className = "state " + now.state;
  cell(row, "routine").textContent = standing(sync.routine);
  cell(row, "critical").textContent = standing(sync.critical);
  cell(row, "nodes").textContent = sync.nodes.map((n) => `${n.node}: ${n.state ?? "unseen"}`).join(", ");
}

function soon(tenant, region) {
  const key = tenant + "/" + region;
  if (waiting.has(key)) { return; }
  waiting.set(key, setTimeout(() => { waiting.delete(key); refresh(tenant, region); }, 100));
}

async function refreshAll() {
  const all = await read("/tenants");
  for (const tenant of all?.value ?? []) {
    for (const region of tenant.regions) { soon(tenant.id, region.region); }
  }
}

function show(item) {
  const row = events.insertRow(0);
  const known = item.region === "global" ? "all" : item.region ?? "";
  for (const text of [item.sequence, item.tenant === "_" ? "" : item.tenant, known, item.event, item.priority === "PRIORITY_CRITICAL" ? "critical" : "routine"]) {
    row.insertCell().textContent = text;
  }
  row.className = item.priority;
  while (events.rows.length > 50) { events.deleteRow(-1); }
}

const stream = new EventSource("/cmk/v1/events");
stream.addEventListener("hello", () => { live.textContent = "live"; live.classList.add("on"); refreshAll(); });
stream.addEventListener("error", () => { live.textContent = "reconnecting"; live.classList.remove("on"); });
stream.addEventListener("event", (message) => {
  const item = JSON.parse(message.data);
  show(item);
  if (item.region === "global") { refreshAll(); } else { soon(item.tenant, item.region); }
});
stream.addEventListener("sync", (message) => {
  const item = JSON.parse(message.data);
  soon(item.tenant, item.region);
});
stream.addEventListener("health", () => {
  for (const row of rows.children) { soon(row.dataset.tenant, row.dataset.region); }
});

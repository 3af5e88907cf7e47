// The page's life: news, forms that speak to the API, passkeys. Decides nothing; what it may not, the API refuses.
"use strict";

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";
const live = document.getElementById("live");

// --- the API --------------------------------------------------------------------------------------------------------

async function api(method, path, body, media = "application/json") {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf };
  if (method !== "GET") { headers["Idempotency-Key"] = crypto.randomUUID(); }
  if (body !== undefined) { headers["Content-Type"] = media; }
  const answer = await fetch("/cmk/v1" + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) { return said; }
  if (answer.status === 401) {  // signed out, or signed in too long ago for this
    location.assign("/login?again=1&next=" + encodeURIComponent(location.pathname));
    await new Promise(() => {});
  }
  const problem = new Error(said.detail ?? answer.statusText);
  problem.code = said.code;
  throw problem;
}

const toast = document.getElementById("toast");
let fading = null;
function say(words, kind = "") {
  clearTimeout(fading);
  toast.className = "toast " + kind;
  toast.textContent = words;
  if (words && kind !== "bad") { fading = setTimeout(() => { toast.textContent = ""; }, 8000); }
}

const bytesOf = (base64) => Uint8Array.from(atob(base64.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const base64Of = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const urlBase64Of = (buffer) => base64Of(buffer).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

// --- passkeys -------------------------------------------------------------------------------------------------------

async function makePasskey() {
  const { publicKey } = await api("GET", "/me/approval-key/options");
  publicKey.challenge = bytesOf(publicKey.challenge);
  publicKey.user.id = bytesOf(publicKey.user.id);
  publicKey.excludeCredentials = [];
  const made = await navigator.credentials.create({ publicKey });
  return api("POST", "/me/approval-key", { credential: {
    id: made.id, rawId: urlBase64Of(made.rawId), type: made.type,
    response: { attestationObject: urlBase64Of(made.response.attestationObject), clientDataJSON: urlBase64Of(made.response.clientDataJSON) },
  } });
}

async function signed(words) {
  if (!words.may_sign) { throw new Error("You are not one of the people whose signature counts here."); }
  if (words.credential === null) {
    throw new Error("Your approval key is an Ed25519 key: sign with the command line, openkcm approval sign.");
  }
  const answer = await navigator.credentials.get({ publicKey: {
    challenge: bytesOf(words.challenge), rpId: words.rp_id, userVerification: "required",
    allowCredentials: [{ type: "public-key", id: bytesOf(words.credential) }],
  } });
  return { assertion: {
    authenticator_data: base64Of(answer.response.authenticatorData),
    client_data: base64Of(answer.response.clientDataJSON),
    signature: base64Of(answer.response.signature),
  } };
}

async function propose(tenant, command, region, given) {
  const words = await api("POST", `/tenants/${tenant}/approvals/prepare`, { command, region, arguments: given });
  return api("POST", `/tenants/${tenant}/approvals`, {
    approval: words.approval, command, region, arguments: words.statement.arguments, ...await signed(words),
  });
}

async function grant(tenant, approval) {
  const words = await api("GET", `/tenants/${tenant}/approvals/${approval}/words`);
  return api("POST", `/tenants/${tenant}/approvals/${approval}/grants`, await signed(words));
}

// --- forms: data-do names what happens; the fields are the rest ------------------------------------------------------

const nested = (fields) => Object.fromEntries([...fields].filter(([, value]) => value !== ""));
const DO = {
  api: (form, fields) => api(form.dataset.method, form.dataset.path, form.hasAttribute("data-empty") ? undefined : nested(fields)),
  lease: (form, fields) => {
    const lease = Number(fields.get("lease_s"));
    return lease > Number(form.dataset.lease)
      ? propose(form.dataset.tenant, "LengthenLease", form.dataset.region, { lease_s: String(lease) })
      : api("PATCH", form.dataset.path, { lease_s: lease }, "application/merge-patch+json");
  },
  tenant: (form, fields) => api("POST", "/tenants", {
    id: fields.get("id"), regions: fields.getAll("regions"),
    people: [1, 2, 3].filter((n) => fields.get("person" + n)).map((n) => ({ person: fields.get("person" + n), roles: fields.get("roles" + n).split(" ") })),
  }),
  revoke: (form, fields) => api("POST", form.dataset.path, { regions: fields.getAll("regions"), reason: fields.get("reason") || "ordered" }),
  passkey: () => makePasskey(),
  propose: (form, fields) => {
    const given = nested(fields);
    if (fields.getAll("roles").length > 1) { given.roles = fields.getAll("roles").join(" "); }
    return propose(form.dataset.tenant, form.dataset.command, form.dataset.region || null, given);
  },
  verify: async (form) => {
    const found = await api("GET", `/tenants/${form.dataset.tenant}/verification`);
    if (!found.good) { throw new Error(`Event ${found.first_bad.sequence} does not hold: ${found.first_bad.why}`); }
    form.dataset.said = `${found.events} events hold: every seal, every counter.`;
  },
  grant: (form) => grant(form.dataset.tenant, form.dataset.approval),
};

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-do]");
  if (form === null) { return; }
  event.preventDefault();
  const button = event.submitter;
  button?.setAttribute("aria-busy", "true");
  say("");
  try {
    await DO[form.dataset.do](form, new FormData(form));
    say(form.dataset.said ?? "Done: recorded in the ledger.");
    if (form.dataset.onward) {
      location.assign(form.dataset.onward.replace("{id}", encodeURIComponent(new FormData(form).get("id"))));
      return;
    }
    if (form.hasAttribute("data-reset")) { form.reset(); }
    document.activeElement?.blur();
    refresh();
  } catch (problem) {
    say(problem.name === "NotAllowedError" ? "The passkey was not used: cancelled, or timed out." : problem.message, "bad");
  } finally {
    button?.removeAttribute("aria-busy");
  }
});

document.addEventListener("input", (event) => {  // the switch is armed by typing the tenant's name
  const armed = event.target.closest("[data-arms]");
  if (armed !== null) { document.getElementById(armed.dataset.arms).disabled = armed.value !== armed.dataset.name; }
});

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy === null) { return; }
  navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent).then(() => { copy.textContent = "Copied"; });
});

// --- news -----------------------------------------------------------------------------------------------------------

// Not under the hands of somebody who is filling in a form: then as soon as the form is left.
let stale = false;
const writing = () => document.activeElement?.closest("[hx-get] form") && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
function refresh() {
  stale = Boolean(writing());
  if (!stale) { document.body.dispatchEvent(new CustomEvent("news")); }
}
document.addEventListener("focusout", () => setTimeout(() => { if (stale) { refresh(); } }, 50));

if (live !== null) {
  let lost = false;
  let pending = null;
  const soon = () => { pending ??= setTimeout(() => { pending = null; refresh(); }, 120); };
  const stream = new EventSource("/cmk/v1/events");
  stream.addEventListener("hello", () => {
    live.textContent = "Live";
    live.className = "live on";
    if (lost) { soon(); }
    lost = false;
  });
  stream.addEventListener("error", () => {
    lost = true;
    live.textContent = "Connection lost: what you see may be old. Reconnecting…";
    live.className = "live off";
    if (stream.readyState === EventSource.CLOSED) { setTimeout(() => location.reload(), 5000); }
  });
  for (const kind of ["event", "sync", "health"]) { stream.addEventListener(kind, soon); }
}

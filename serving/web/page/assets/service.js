/* The service, asked over HTTP: an answer with what its header fields say, or an error in plain words. */

const TOKEN = "glyph-token";
const TIMEOUT_MS = 20_000;
const RETRYABLE = new Set([0, 408, 429, 502, 503, 504]);
/** What went wrong: a status (0 where no answer came) and sentences for a person. */
export class ServiceError extends Error {
  constructor(status, problem = {}, headers = new Headers()) {
    super(inPlainWords(status, problem));
    this.status = status;
    this.upload = problem.upload ?? null;
    this.requestId = headers.get("X-Request-ID");
    this.retryAfterMs = retryAfterMs(headers.get("Retry-After"));
  }

  /** Whether the same request may be answered later, without anybody changing it. */
  get passing() {
    return RETRYABLE.has(this.status);
  }
}

/** Return sentences for a person at this page; a problem's own remedy speaks to who writes a client. */
function inPlainWords(status, { title, detail }) {
  if (status === 0) return sentences(detail ?? "The service cannot be reached");
  if (status === 401) {
    return hasToken() ? "The service does not accept this access token." : "This service asks for an access token.";
  }
  if (status === 504) return "The service could not answer in time.";
  if (status === 429 || status >= 500) return sentences(title ?? `The service answered ${status}`, detail);
  return sentences(detail ?? title ?? `The service answered ${status}`);
}

/** Keep an access token until this tab is closed; nothing else ever stores it. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** Return a JSON document, {document, headers}. */
export async function read(path) {
  return answered(path, { headers: { Accept: "application/json" } });
}

/** Ask about one image file, or several as a form; return {model, predictions, timing, requestId, elapsedMs}. */
export async function predict(images, signal) {
  const started = performance.now();
  const { document, headers } = await answered("predict", { method: "POST", ...body(images), signal });
  return {
    ...document,
    timing: serverTiming(headers.get("Server-Timing")),
    requestId: headers.get("X-Request-ID"),
    elapsedMs: performance.now() - started,
  };
}

function body(images) {
  if (images.length === 1 && images[0].blob.type) {
    return { body: images[0].blob, headers: { "Content-Type": images[0].blob.type } };
  }
  const form = new FormData(); // its parts' types, where a browser knows none, are told by their content
  for (const { blob, name } of images) form.append("image", blob, name);
  return { body: form };
}

async function answered(path, { signal, headers, ...options }) {
  const token = sessionStorage.getItem(TOKEN);
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  let text;
  try {
    response = await fetch(path, {
      ...options,
      headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      credentials: "same-origin",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error; // given up by this page itself
    throw new ServiceError(0, limit.aborted ? { detail: "The service has not answered" } : {});
  }
  const document = parsed(text);
  if (!response.ok) throw new ServiceError(response.status, document ?? {}, response.headers);
  if (document === undefined) throw new ServiceError(response.status, { detail: "The answer is no JSON" });
  return { document, headers: response.headers };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // a proxy's own page, as a rule
  }
}

/** Return milliseconds by phase, {decode: 0.2, infer: 0.1, ...} (W3C Server Timing). */
export function serverTiming(field) {
  const durations = {};
  for (const entry of (field ?? "").split(",")) {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    if (name && duration) durations[name] = Number(duration.slice(4));
  }
  return durations;
}

/** Return the milliseconds that Retry-After asks for, in seconds or as a date (RFC 9110, 10.2.3); null if not. */
function retryAfterMs(field) {
  if (!field) return null;
  const milliseconds = /^\d+$/.test(field) ? Number(field) * 1000 : Date.parse(field) - Date.now();
  return Number.isNaN(milliseconds) ? null : Math.max(0, milliseconds);
}

/** Return texts as sentences: a capital at the beginning, one full stop at the end. */
export function sentences(...texts) {
  return texts
    .filter(Boolean)
    .map((text) => text.trim())
    .map((text) => text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : "."))
    .join(" ");
}

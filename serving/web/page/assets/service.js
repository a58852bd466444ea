/* The HTTP client: a response with its timing and request id, or an error in plain words. */

const TOKEN = "glyph-token";
const TIMEOUT_MS = 20_000;
const RETRYABLE = new Set([0, 408, 429, 502, 503, 504]);

/** An error: a status (0 without a response) and sentences for the reader. */
export class ServiceError extends Error {
  constructor(status, problem = {}, headers = new Headers()) {
    super(inPlainWords(status, problem));
    this.status = status;
    this.upload = problem.upload ?? null;
    this.requestId = headers.get("X-Request-ID");
    this.retryAfterMs = retryAfterMs(headers.get("Retry-After"));
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return RETRYABLE.has(this.status);
  }
}

/** Return sentences for the reader of this page; a problem's own remedy is for developers of clients. */
function inPlainWords(status, { title, detail }) {
  if (status === 0) return sentences(detail ?? "The service cannot be reached");
  if (status === 401) {
    return hasToken() ? "The service does not accept this access token." : "This service requires an access token.";
  }
  if (status === 504) return "The service did not answer in time.";
  if (status === 429 || status >= 500) return sentences(title ?? `The service answered ${status}`, detail);
  return sentences(detail ?? title ?? `The service answered ${status}`);
}

/** Store an access token until this tab is closed; it is stored nowhere else. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** Get a JSON document; return {document, headers}. */
export async function read(path) {
  return answered(path, { headers: { Accept: "application/json" } });
}

/** Classify one image file, or several as a form; return {model, predictions, timing, requestId, elapsedMs}. */
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
  const form = new FormData(); // of parts whose type the browser does not know, the service recognises it by content
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
    if (signal?.aborted) throw error; // aborted by this page
    throw new ServiceError(0, limit.aborted ? { detail: "The service did not answer in time" } : {});
  }
  const document = parsed(text);
  if (!response.ok) throw new ServiceError(response.status, document ?? {}, response.headers);
  if (document === undefined) throw new ServiceError(response.status, { detail: "The response is not JSON" });
  return { document, headers: response.headers };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // usually an error page of a proxy
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

/** Return Retry-After, in seconds or as a date (RFC 9110, section 10.2.3), in milliseconds; null without one. */
function retryAfterMs(field) {
  if (!field) return null;
  const milliseconds = /^\d+$/.test(field) ? Number(field) * 1000 : Date.parse(field) - Date.now();
  return Number.isNaN(milliseconds) ? null : Math.max(0, milliseconds);
}

/** Return texts as sentences, with a capital at the beginning and one full stop at the end. */
export function sentences(...texts) {
  return texts
    .filter(Boolean)
    .map((text) => text.trim())
    .map((text) => text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : "."))
    .join(" ");
}

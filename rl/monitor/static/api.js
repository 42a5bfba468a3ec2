// Requests to the server. Failures become an ApiError with one clear line; the status line adds details on a lost
// connection.

const PATIENCE = 60000; // ms: timeout of a request
const NO_TOKEN = 'The token is missing or wrong: open the address that `sawtooth monitor` printed.';

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Returns the parsed response. Throws ApiError, or the signal's AbortError. */
export async function get(path, params, signal) {
  return JSON.parse(await ask(address(path, params), signal));
}

/** Like `get`, but null if the same request had the same response last time; `last` (an object) stores both. */
export async function getIfNew(last, path, params, signal) {
  const url = address(path, params);
  const text = await ask(url, signal);
  if (last.url === url && last.text === text) return null;
  Object.assign(last, { url, text });
  return JSON.parse(text);
}

function address(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value === null || value === undefined || value === '') continue;
    if (!Array.isArray(value)) query.append(name, value);
    else if (name === 'name') value.forEach((one) => query.append(name, one)); // a metric's name may contain a comma
    else query.append(name, value.join(','));
  }
  return query.size ? `${path}?${query}` : path;
}

async function ask(url, signal) {
  const limits = [AbortSignal.timeout(PATIENCE), ...(signal ? [signal] : [])];
  let response;
  let text;
  try {
    response = await fetch(url, { signal: AbortSignal.any(limits), credentials: 'same-origin' });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = error.name === 'TimeoutError';
    const lost = 'No connection to the monitor: is it still running?';
    const message = late ? 'The monitor has not responded for a minute.' : lost;
    report('connection', `${message} Trying again…`);
    throw new ApiError(message, 0);
  }
  report('connection', null);
  if (response.ok) return text;
  if (response.status === 401) throw new ApiError(NO_TOKEN, 401);
  throw new ApiError(said(text) ?? `The monitor failed (${response.status}); see its terminal.`, response.status);
}

function said(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return null;
  }
}

export const aborted = (error) => error?.name === 'AbortError';

const lines = new Map();

/** Sets `who`'s problem in the status line at the top; null clears it. The line is empty while there are none. */
export function report(who, message) {
  if ((lines.get(who) ?? null) === message) return;
  if (message) lines.set(who, message);
  else lines.delete(who);
  const line = document.getElementById('status');
  if (line) line.textContent = [...new Set(lines.values())].join(' ');
}

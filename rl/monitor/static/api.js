// Questions to the server. What goes wrong becomes an ApiError with one clear line; the status line says more of a lost
// connection.

const PATIENCE = 60000; // ms for one answer
const NO_TOKEN = 'The token is missing or wrong: open the address that `sawtooth monitor` printed.';

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The parsed answer. Throws ApiError, or the signal's AbortError. */
export async function get(path, params, signal) {
  return JSON.parse(await ask(address(path, params), signal));
}

/** Like `get`, but null where the same question had the same answer the last time; `last` (an object) keeps both. */
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
    else if (name === 'name') value.forEach((one) => query.append(name, one)); // a metric's name may hold a comma
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
    const message = late ? 'The monitor has not answered for a minute.' : lost;
    report('connection', `${message} Trying again…`);
    throw new ApiError(message, 0);
  }
  report('connection', null);
  if (response.ok) return text;
  if (response.status === 401) throw new ApiError(NO_TOKEN, 401);
  throw new ApiError(said(text) ?? `The monitor failed (${response.status}); its terminal says why.`, response.status);
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

/** The status line at the top: what is wrong now, by who says it; null takes it back. Empty while all is well. */
export function report(who, message) {
  if ((lines.get(who) ?? null) === message) return;
  if (message) lines.set(who, message);
  else lines.delete(who);
  const line = document.getElementById('status');
  if (line) line.textContent = [...new Set(lines.values())].join(' ');
}

// Questions to the server. What goes wrong becomes an ApiError with one clear line; the status line says more of a lost
// connection.

import { report } from './status.js';

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
  const response = await ask(address(path, params), signal);
  return body(response);
}

const known = new Map();
const MOST_KNOWN = 200;

/** Like `get`, but null where nothing has changed since the same question was last asked by this `owner`. */
export async function getIfNew(owner, path, params, signal) {
  const url = address(path, params);
  const key = `${owner} ${url}`;
  const response = await ask(url, signal, known.get(key));
  if (response.status === 304) return null;
  const answer = await body(response);
  const tag = response.headers.get('ETag');
  if (known.size > MOST_KNOWN) known.clear();
  if (tag) known.set(key, tag);
  return answer;
}

/** Forgets what an owner was told: the next `getIfNew` gets an answer. */
export function forget(owner) {
  for (const key of known.keys()) if (key.startsWith(`${owner} `)) known.delete(key);
}

function address(path, params = {}) {
  const pairs = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const query = new URLSearchParams();
  for (const [name, value] of pairs) {
    if (!Array.isArray(value)) query.append(name, value);
    else if (name === 'name') value.forEach((one) => query.append(name, one)); // a metric's name may hold a comma
    else query.append(name, value.join(','));
  }
  return query.size ? `${path}?${query}` : path;
}

async function ask(url, signal, tag) {
  const limits = [AbortSignal.timeout(PATIENCE), ...(signal ? [signal] : [])];
  const headers = { Accept: 'application/json', ...(tag ? { 'If-None-Match': tag } : {}) };
  let response;
  try {
    response = await fetch(url, { headers, signal: AbortSignal.any(limits), credentials: 'same-origin' });
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = error.name === 'TimeoutError';
    const message = late
      ? 'The monitor has not answered for a minute.'
      : 'No connection to the monitor: is it still running?';
    report('connection', `${message} Trying again…`);
    throw new ApiError(message, 0);
  }
  report('connection', null);
  return response;
}

async function body(response) {
  let answer;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    answer = null;
  }
  if (response.ok && answer !== null) return answer;
  if (response.status === 401) throw new ApiError(NO_TOKEN, 401);
  const words =
    typeof answer?.error === 'string'
      ? answer.error
      : `The monitor failed (${response.status}); its terminal says why.`;
  throw new ApiError(words, response.status);
}

export const aborted = (error) => error?.name === 'AbortError';

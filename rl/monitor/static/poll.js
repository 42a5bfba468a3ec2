// Schedules work: polling that pauses while the tab is hidden and backs off while it fails, and debouncing.

import { aborted, report } from './api.js';

const FIRST = 1500; // ms to the first retry after a failure, doubled after each further one,
const LONGEST = 30000; // up to this

/**
 * Runs `work(signal)`, then again `pace()` ms after it ended, until `signal` aborts.
 * Returns a function that runs it at once (or again, if it is running).
 */
export function poll(work, pace, signal) {
  let timer = 0;
  let failures = 0;
  let running = false;
  let again = false;

  async function turn() {
    clearTimeout(timer);
    if (signal.aborted) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    try {
      await work(signal);
      failures = 0;
      report('poll', null);
    } catch (error) {
      if (signal.aborted || aborted(error)) {
        running = false;
        return;
      }
      failures += 1;
      if (error.status === undefined) console.error(error);
      report('poll', error.status === 0 ? null : error.message); // api.js reports a lost connection
    }
    running = false;
    if (again) turn();
    else plan();
  }

  function plan() {
    if (signal.aborted || document.hidden) return;
    timer = setTimeout(turn, failures ? Math.min(LONGEST, FIRST * 2 ** (failures - 1)) : pace());
  }

  function shown() {
    if (!document.hidden) turn();
    else clearTimeout(timer);
  }

  document.addEventListener('visibilitychange', shown);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', shown);
    report('poll', null);
  });
  turn();
  return turn;
}

/** Debounces: runs `work` `wait` ms after the last of many calls. */
export function debounce(work, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

// A log axis has no place for values at or below 0: they are left out, and the chart says how many.

import { count } from './format.js';

/**
 * Whether a chart gets the log axis that is asked for, and what to say about it: { log, words }.
 * `curves`: those that are shown, lists of values.
 */
export function logAxis(curves, asked, stacked) {
  if (!asked) return { log: false, words: '' };
  if (stacked) return { log: false, words: 'Linear: what is stacked adds up, which a log axis would not show.' };
  const values = curves.flat().filter((v) => v !== null);
  const above = values.filter((v) => v > 0).length;
  if (values.length && !above) return { log: false, words: 'Linear: no value is above 0, as a log axis needs.' };
  const out = values.length - above;
  return { log: true, words: out ? `${count(out, 'value')} at or below 0 ${out === 1 ? 'is' : 'are'} not shown.` : '' };
}

/** `values` with gaps where a log axis has no place. */
export const positive = (values) => values.map((v) => (v > 0 ? v : null));

/** The lower edge of a band on a log axis: what is not above 0 goes down to `floor`, so that the band has no hole. */
export const lifted = (low, floor) => low.map((v) => (v === null || v > 0 ? v : floor));

/** For each value whether it stands between gaps: a line alone would not show it. */
export const lonely = (values) =>
  values.map((v, i) => v !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null);

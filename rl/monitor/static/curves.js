// Computations on curves before drawing: smoothing, log axes, a common grid for stacks, units of time.

import { count } from './format.js';

/** Exponential moving average without initial bias. `weight` of the past: 0 to below 1. Gaps stay gaps. */
export function smooth(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

/** Resamples curves to one grid for a stack: 0 if a curve has no point nearby. */
export function onOneGrid(curves) {
  const longest = curves.reduce((a, b) => (b.x.length > a.length ? b.x : a), []);
  const exact = curves.every((c) => c.low === null);
  const grid = exact ? [...new Set(curves.flatMap((c) => c.x))].sort((a, b) => a - b) : longest;
  const gap = exact ? 0 : (grid.at(-1) - grid[0]) / grid.length;
  return curves.map((curve) => {
    if (curve.x.length === grid.length) return { ...curve, x: grid };
    const y = grid.map((x) => {
      const at = nearest(curve.x, x);
      return at >= 0 && Math.abs(curve.x[at] - x) <= gap ? (curve.y[at] ?? 0) : 0;
    });
    return { ...curve, x: grid, y, low: null, high: null };
  });
}

/** Returns the index of the nearest value in an ascending list; -1 for an empty list. */
export function nearest(list, value) {
  if (!list.length) return -1;
  let low = 0;
  let high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle;
    else high = middle;
  }
  return Math.abs(list[low] - value) <= Math.abs(list[high] - value) ? low : high;
}

/** Returns the display unit for seconds up to `longest`: [seconds per unit, name]. */
export function timeUnit(longest) {
  if (longest > 2 * 86400) return [86400, 'days'];
  if (longest > 2 * 3600) return [3600, 'h'];
  return longest > 180 ? [60, 'min'] : [1, 's'];
}

/**
 * Returns the steps stored in the episodes of a point: [from, to]. A metrics line of step n covers the episodes since
 * the previous line, sampled by policies one step older.
 */
export function episodeSteps(steps, at) {
  const here = Math.round(steps[at]);
  const gap = at > 0 ? here - Math.round(steps[at - 1]) : steps.length > 1 ? Math.round(steps[1]) - here : 1;
  return [Math.max(0, here - Math.max(1, gap)), Math.max(0, here - 1)];
}

/** Returns the last value of a curve that is a number, or null. */
export const latest = (curve) => curve?.y.findLast((value) => value !== null) ?? null;

/**
 * Returns whether a chart gets the requested log axis, and a note: { log, words }. A log axis can't show values at or
 * below 0. `curves`: the visible ones, lists of values.
 */
export function logAxis(curves, asked, stacked) {
  if (!asked) return { log: false, words: '' };
  if (stacked) return { log: false, words: 'Linear: stacked values add up, which a log axis would not show.' };
  const values = curves.flat().filter((v) => v !== null);
  const above = values.filter((v) => v > 0).length;
  if (values.length && !above) return { log: false, words: 'Linear: a log axis needs values above 0.' };
  const out = values.length - above;
  return { log: true, words: out ? `${count(out, 'value')} at or below 0 ${out === 1 ? 'is' : 'are'} not shown.` : '' };
}

/** Replaces values that a log axis can't show with gaps. */
export const positive = (values) => values.map((v) => (v > 0 ? v : null));

/** Marks values between gaps, which a line without markers would not show. */
export const lonely = (values) =>
  values.map((v, i) => v !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null);

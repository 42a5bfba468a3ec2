// The values of a chart as a table, the newest first.

import { nearest } from './curves.js';
import { el, scroller } from './dom.js';
import { num } from './format.js';

const ROWS = 100;

/** `members`: curves with values; `link(x)`: address of the episodes of that point, or null. */
export function valuesTable(title, members, time, link) {
  const xs = [...new Set(members.flatMap((one) => one.curve.x))].sort((a, b) => b - a);
  const cell = ({ curve }, x) => {
    const at = nearest(curve.x, x);
    return el('td', { class: 'n' }, curve.x[at] === x ? num(curve.y[at]) : '');
  };
  const row = (x) => {
    const address = link(x);
    const words = num(time ? Math.round(x) : x);
    const first = address ? el('a', { href: address, title: 'episodes of this step' }, words) : words;
    return el('tr', {}, el('th', { scope: 'row' }, first), ...members.map((one) => cell(one, x)));
  };
  const labels = members.map((one) => el('th', { scope: 'col', class: 'n' }, one.label));
  const head = el('tr', {}, el('th', { scope: 'col' }, time ? 'seconds' : 'step'), labels);
  const table = el('table', {}, el('thead', {}, head), el('tbody', {}, ...xs.slice(0, ROWS).map(row)));
  const note = xs.length > ROWS && el('p', { class: 'note' }, `The newest ${ROWS} of ${xs.length} points.`);
  return [scroller(`Values of ${title}`, { class: 'values-box' }, table), note];
}

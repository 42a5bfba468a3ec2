// The legend of a chart: a button for each curve, with its latest value, that hides the curve or shows it.

import { strokeDashes } from './colours.js';
import { latest } from './curves.js';
import { el, keepFocus, put, svg } from './dom.js';
import { num } from './format.js';

// Plotly's marks, in the middle of a swatch.
const POINTS = {
  circle: 'M8 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0',
  square: 'M8 2h6v6h-6z',
  diamond: 'M11 .6l4.4 4.4-4.4 4.4-4.4-4.4z',
  'triangle-up': 'M11 .8l4.4 7.6h-8.8z',
  x: 'M8 2l6 6M14 2l-6 6',
  cross: 'M11 1v8M7 5h8',
  star: 'M11 0l1.4 3.3 3.6.3-2.7 2.4.8 3.5-3.1-1.9-3.1 1.9.8-3.5-2.7-2.4 3.6-.3z',
  pentagon: 'M11 1l4 3-1.5 4.6h-5l-1.5-4.6z',
};

/** A line of the legend as it is drawn. */
export function swatch({ colour, dash, mark }, filled = false) {
  const line = filled
    ? svg('rect', { x: 1, y: 1, width: 20, height: 8, rx: 2, fill: colour })
    : svg('path', {
        d: 'M1 5H21',
        stroke: colour,
        'stroke-width': mark ? 1.5 : 2.5,
        'stroke-dasharray': strokeDashes(dash),
        fill: 'none',
      });
  const over = !filled && mark && point(mark, colour);
  const size = { width: 22, height: 10, viewBox: '0 0 22 10' };
  return svg('svg', { ...size, 'aria-hidden': 'true', class: 'swatch' }, line, over);
}

function point(mark, colour) {
  const drawn = mark === 'x' || mark === 'cross' ? { stroke: colour, 'stroke-width': 2.5 } : { fill: colour };
  return svg('path', { d: POINTS[mark], fill: 'none', ...drawn });
}

/**
 * Fills the legend. `items`: curves as `Figure.members` gives them, those that have values. A line for each run where
 * there are several curves of several runs; stacks of several runs share a button.
 */
export function showLegend(box, items, { look, names, stacked, known }) {
  keepFocus(box, () => put(box, entries(items, look, names, stacked, known)));
}

function entries(items, look, names, stacked, known) {
  if (known && !items.length) return [el('li', { class: 'none' }, 'no values in this range')];
  if (look.runs.length < 2 || names.length < 2) {
    return items.map((one) => el('li', {}, button([one], one.label, look, stacked)));
  }
  if (stacked) {
    const groups = names.map((name) => items.filter((one) => one.name === name)).filter((of) => of.length);
    return groups.map((of) => el('li', {}, button(of, of[0].word, look, stacked)));
  }
  const lines = look.runs.map((run) => items.filter((one) => one.run === run)).filter((of) => of.length);
  return lines.map((of) => line(of, look));
}

function line(of, look) {
  const buttons = of.map((one) => button([one], one.word, look, false));
  return el('li', { class: 'legend-run' }, el('span', { class: 'muted' }, of[0].run.name), buttons);
}

function button(of, words, look, filled) {
  const value = ({ curve, run, name }) => (curve ? latest(curve) : run.stage === look.stage ? run.latest[name] : null);
  const shown = of.some((one) => !one.hidden);
  const keys = of.map((one) => one.key);
  const [one, ...others] = of; // figures of several runs in a row could not be told apart: the title has them by name
  const title = others.length ? of.map((each) => `${each.run.name}: ${num(value(each))}`).join('\n') : one.name;
  return el(
    'button',
    { type: 'button', 'aria-pressed': shown, title, onclick: () => look.toggle(keys, shown) },
    swatch(one.style, filled),
    el('span', { class: 'legend-name' }, words),
    !others.length && el('span', { class: 'figure' }, num(value(one))),
  );
}

// The legend of a chart: a button for each curve, with its latest value, that hides the curve or shows it.

import { strokeDashes } from './colours.js';
import { latest } from './curves.js';
import { el, keepFocus, put, svg } from './dom.js';
import { num } from './format.js';

/** A line of the legend as it is drawn. */
export function swatch({ colour, dash }, filled = false) {
  const line = filled
    ? svg('rect', { x: 1, y: 1, width: 20, height: 8, rx: 2, fill: colour })
    : svg('path', {
        d: 'M1 5H21',
        stroke: colour,
        'stroke-width': 2.5,
        'stroke-dasharray': strokeDashes(dash),
        fill: 'none',
      });
  return svg('svg', { width: 22, height: 10, viewBox: '0 0 22 10', 'aria-hidden': 'true', class: 'swatch' }, line);
}

/**
 * Fills the legend. `items`: curves as `Figure.members` gives them, those that have values. A line for each run where
 * there are several curves of several runs; stacks of several runs share a button, with a value for each.
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
  return el(
    'button',
    { type: 'button', 'aria-pressed': shown, title: of[0].name, onclick: () => look.toggle(keys, shown) },
    swatch(of[0].style, filled),
    el('span', { class: 'legend-name' }, words),
    el('span', { class: 'figure' }, of.map((one) => num(value(one))).join(' / ')),
  );
}

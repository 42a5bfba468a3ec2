// One chart of the overview: its text, the plot, and its values as a table, which gives keyboard access: its headers
// hide and show curves, its rows lead to episodes.

import { curveStyle } from './colors.js';
import { episodeSteps, latest, logAxis, nearest, timeUnit } from './curves.js';
import { el, fold, keepFocus, put, scroller } from './dom.js';
import { num } from './format.js';
import { draw, drop } from './plots.js';
import { table } from './table.js';

const ROWS = 100; // of the table of values

export class Chart {
  /** `look`: state shared by all charts, see charts.js. */
  constructor(chart, look) {
    this.chart = chart;
    this.look = look;
    this.curves = null;
    this.plot = el('div', { class: 'plot', 'aria-hidden': 'true' });
    this.axisNote = el('p', { class: 'note', 'data-testid': 'axis-note', hidden: true });
    this.none = el('p', { class: 'note', hidden: true }, 'No values in this range.');
    this.table = el('div');
    this.values = fold('Values', () => this.tabulate(), { class: 'values' }, this.table);
    const unit = chart.unit && el('span', { class: 'unit' }, chart.unit);
    const words = el('h3', {}, chart.title, ' ', unit);
    const caption = el('figcaption', {}, words, chart.note && el('p', { class: 'note' }, chart.note), this.axisNote);
    this.node = el(
      'figure',
      { id: `chart-${chart.id}`, class: 'chart', 'data-testid': 'chart', 'data-chart': chart.id },
      caption,
      el('div', { class: 'plot-frame' }, this.none, this.plot),
      this.values,
    );
  }

  get names() {
    return this.chart.names;
  }

  take(curves) {
    this.curves = curves;
    this.tabulate();
  }

  get stacked() {
    return this.chart.kind === 'stacked';
  }

  key(run, name) {
    return `${run.id}:${name.replaceAll(',', ';')}`; // a comma separates keys in the URL
  }

  /** Returns every curve with values, run by run. Stacks of several runs are drawn in rows and share colors. */
  members() {
    const { runs, hidden } = this.look;
    const { labels } = this.chart;
    const ramp = this.names.length > 2 && labels.every((label) => /\d$/.test(label));
    const count = { runs: this.stacked ? 1 : runs.length, names: this.names.length, ramp };
    const all = runs.flatMap((run) =>
      this.names.map((metric, name) => {
        const key = this.key(run, metric);
        const whole = runs.length < 2 ? labels[name] : this.names.length < 2 ? run.name : `${run.name} · ${labels[name]}`;
        return {
          key,
          run,
          label: whole,
          word: labels[name],
          group: this.stacked ? metric : key,
          style: curveStyle({ ...count, run: run.index, name, metric }),
          hidden: hidden.has(key),
          curve: this.curves?.[run.id]?.[metric] ?? null,
        };
      }),
    );
    return all.filter((one) => one.curve?.x.length);
  }

  /** Draws the curves received so far. */
  async draw() {
    if (!this.curves) return;
    const { look } = this;
    const members = this.members();
    const rows = look.runs.filter((run) => members.some((one) => one.run === run));
    const ends = members.flatMap((one) => [one.curve.x[0], one.curve.x.at(-1)]);
    this.none.hidden = ends.length > 0;
    this.plot.classList.toggle('empty', !ends.length);
    const time = look.x === 'time';
    const [size, unit] = time ? timeUnit(Math.max(0, ...ends, look.range[1] ?? 0)) : [1, ''];
    this.size = size;
    const seen = members.filter((one) => !one.hidden).map((one) => one.curve.y);
    const { log, words } = logAxis(seen, look.log, this.stacked);
    this.axisNote.textContent = words;
    this.axisNote.hidden = !words;
    const groups = members.map((one) => one.group);
    const several = this.stacked && rows.length > 1; // figures of several runs would be ambiguous
    const series = members.map((one, i) => ({
      ...one,
      ...one.curve,
      x: size === 1 ? one.curve.x : one.curve.x.map((v) => v / size),
      label: this.stacked ? one.word : one.label,
      latest: several ? '' : num(latest(one.curve)),
      first: groups.indexOf(one.group) === i,
      row: rows.indexOf(one.run),
    }));
    const chart = {
      series,
      rows: rows.map((run) => run.name),
      stacked: this.stacked,
      smoothing: look.smoothing,
      log,
      unit: this.chart.unit,
      xTitle: time ? `time since the start (${unit})` : 'step',
      xHover: time ? `%{x:.4~g} ${unit}` : 'step %{x}',
      range: look.range.map((v) => (v === null ? null : v / size)),
      extent: ends.length ? [Math.min(...ends) / size, Math.max(...ends) / size] : [0, 1],
    };
    await draw(this.plot, chart, {
      zoom: (from, to) => look.zoom(from * this.size, to * this.size),
      unzoom: () => look.zoom(null, null),
      click: (x, run) => this.open(x * this.size, run),
      hide: (keys) => this.hide(keys),
    });
  }

  drop() {
    drop(this.plot);
  }

  /** Reports which of its curves are hidden now. */
  hide(keys) {
    this.look.hide(this.members().map((one) => one.key), keys);
    this.tabulate();
  }

  /** Returns the run (the given one, or the nearest curve's) and steps of the episodes at x; null if unknown. */
  steps(x, run = null) {
    if (this.look.stage !== 'rl') return null;
    const gap = ({ curve }) => Math.abs(curve.x[nearest(curve.x, x)] - x);
    const shown = this.members().filter((one) => !one.hidden && (run === null || one.run.id === run));
    const one = shown.sort((a, b) => gap(a) - gap(b))[0];
    const steps = one && (this.look.x === 'step' ? one.curve.x : one.curve.steps);
    return steps ? [one.run.id, ...episodeSteps(steps, nearest(one.curve.x, x))] : null;
  }

  open(x, run) {
    const found = this.steps(x, run);
    if (found) this.look.open(...found);
  }

  /** Fills the table of values, newest first. */
  tabulate() {
    if (!this.values.open || !this.curves) return;
    const members = this.members();
    const time = this.look.x === 'time';
    const xs = [...new Set(members.flatMap((one) => one.curve.x))].sort((a, b) => b - a);
    const step = (x) => {
      const found = this.steps(x);
      const words = num(time ? Math.round(x) : x);
      return found ? el('a', { href: this.look.link(...found), title: `episodes of this step of ${found[0]}` }, words) : words;
    };
    const turn = ({ key }) => {
      this.hide(new Set(members.filter((one) => one.hidden !== (one.key === key)).map((one) => one.key)));
      this.draw();
    };
    const value = ({ curve }, x) => {
      const at = nearest(curve.x, x);
      return curve.x[at] === x ? num(curve.y[at]) : '';
    };
    const head = (one) =>
      el('button', { type: 'button', class: 'sort', 'aria-pressed': !one.hidden, onclick: () => turn(one) }, one.label);
    const columns = [
      { words: time ? 'seconds' : 'step', first: true, cell: step },
      ...members.map((one) => ({ words: head(one), class: 'n', cell: (x) => value(one, x) })),
    ];
    const note = xs.length > ROWS && el('p', { class: 'note' }, `The newest ${ROWS} of ${xs.length} points.`);
    const made = scroller(`Values of ${this.chart.title}`, { class: 'values-box' }, table({}, columns, xs.slice(0, ROWS)));
    keepFocus(this.table, () => put(this.table, made, note));
  }
}

// One chart of the overview: its words and latest figures, a legend of buttons, the plot, and its values as a table.

import { curveStyle, strokeDashes } from './colours.js';
import { episodeSteps, latest, nearest, timeUnit } from './curves.js';
import { el, put, scroller, svg } from './dom.js';
import { num } from './format.js';
import { draw, drop, point } from './plots.js';

const ROWS = 100; // of the table of values

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

export class Figure {
  /** `look`: what all charts share, see charts.js. */
  constructor(chart, look) {
    this.chart = chart;
    this.look = look;
    this.curves = null;
    this.legend = el('ul', { class: 'legend' });
    this.plot = el('div', { class: 'plot', 'aria-hidden': 'true' });
    this.frame = el(
      'div',
      { class: 'plot-frame', onkeydown: (event) => this.key(event), onblur: () => this.leave() },
      this.plot,
    );
    this.table = el('div');
    this.values = el(
      'details',
      { class: 'values', ontoggle: () => this.tabulate() },
      el('summary', {}, 'Values'),
      this.table,
    );
    const unit = chart.unit && el('span', { class: 'unit' }, chart.unit);
    this.caption = el(
      'figcaption',
      {},
      el('h3', {}, chart.title, ' ', unit),
      chart.note && el('p', { class: 'note' }, chart.note),
      this.legend,
    );
    this.node = el(
      'figure',
      { id: `chart-${chart.id}`, class: 'chart', 'data-testid': 'chart', 'data-chart': chart.id },
      this.caption,
      this.frame,
      this.values,
    );
    this.frame.style.minHeight = '210px';
    this.relabel();
  }

  get names() {
    return this.chart.names;
  }

  take(curves) {
    this.curves = curves;
    this.at = null;
    this.relabel();
    this.tabulate();
  }

  get stacked() {
    return this.chart.kind === 'stacked';
  }

  /** Every curve of the chart, run by run. Stacks of several runs stand under one another and share their colours. */
  members() {
    const { runs } = this.look;
    const { labels } = this.chart;
    const ramp = this.names.length > 2 && labels.every((label) => /\d$/.test(label));
    return runs.flatMap((run, row) =>
      this.names.map((name, i) => {
        const key = `${run.id}:${name}`;
        const style = curveStyle({
          run: run.index,
          runs: this.stacked ? 1 : runs.length,
          name: i,
          names: this.names.length,
          ramp,
        });
        const label = runs.length < 2 ? labels[i] : this.names.length < 2 ? run.name : `${run.name} · ${labels[i]}`;
        return {
          key,
          name,
          word: labels[i],
          run,
          row,
          label,
          style,
          hidden: this.look.hidden.has(key),
          curve: this.curves?.[run.id]?.[name] ?? null,
        };
      }),
    );
  }

  /** The legend: a button for each curve; a line for each run where there are several curves of several runs. */
  relabel() {
    const items = this.members().filter((one) => !this.curves || one.curve?.x.length);
    const focused = [...this.legend.querySelectorAll('button')].indexOf(document.activeElement);
    const several = this.look.runs.length > 1 && this.names.length > 1;
    if (this.curves && !items.length) put(this.legend, el('li', { class: 'none' }, 'no values in this range'));
    else if (!several)
      put(
        this.legend,
        items.map((one) => el('li', {}, this.button([one], one.label))),
      );
    else if (this.stacked)
      put(
        this.legend,
        this.names
          .map((name) => items.filter((one) => one.name === name))
          .filter((of) => of.length)
          .map((of) => el('li', {}, this.button(of, of[0].word))),
      );
    else {
      const lines = this.look.runs.map((run) => items.filter((one) => one.run === run)).filter((of) => of.length);
      put(
        this.legend,
        lines.map((of) =>
          el(
            'li',
            { class: 'legend-run' },
            el('span', { class: 'muted' }, of[0].run.name),
            of.map((one) => this.button([one], one.word)),
          ),
        ),
      );
    }
    if (focused >= 0) this.legend.querySelectorAll('button')[focused]?.focus();
  }

  button(of, words) {
    const value = (one) =>
      one.curve ? latest(one.curve) : one.run.stage === this.look.stage ? one.run.latest[one.name] : null;
    const shown = of.some((one) => !one.hidden);
    const toggle = () =>
      this.look.toggle(
        of.map((one) => one.key),
        shown,
      );
    return el(
      'button',
      { type: 'button', 'aria-pressed': shown, title: of[0].name, onclick: toggle },
      swatch(of[0].style, this.stacked),
      el('span', { class: 'legend-name' }, words),
      el('span', { class: 'figure' }, of.map((one) => num(value(one))).join(' / ')),
    );
  }

  /** Draws what is known. */
  async draw() {
    if (!this.curves) return;
    const { look } = this;
    const members = this.members().filter((one) => one.curve?.x.length);
    const all = members.flatMap((one) => [one.curve.x[0], one.curve.x[one.curve.x.length - 1]]);
    this.frame.classList.toggle('empty', !all.length);
    this.xs = [...new Set(members.flatMap((one) => one.curve.x))].sort((a, b) => a - b);
    this.slide();
    const longest = Math.max(0, ...all, look.range[1] ?? 0);
    const [size, unit] = look.x === 'time' ? timeUnit(longest) : [1, ''];
    this.size = size;
    const scaled = (list) => (size === 1 ? list : list.map((v) => v / size));
    await draw(
      this.plot,
      {
        series: members.map((one) => ({
          ...one,
          ...one.curve,
          x: scaled(one.curve.x),
          label: this.stacked ? one.word : one.label,
        })),
        rows: look.runs.map((run) => run.name),
        stacked: this.stacked,
        smoothing: look.smoothing,
        log: look.log,
        unit: this.chart.unit,
        xTitle: look.x === 'time' ? `time since the start (${unit})` : 'step',
        xHover: look.x === 'time' ? `%{x:.4~g} ${unit}` : 'step %{x}',
        range: look.range.map((v) => (v === null ? null : v / size)),
        extent: all.length ? [Math.min(...all) / size, Math.max(...all) / size] : [0, 1],
      },
      {
        zoom: (from, to) => look.zoom(from * this.size, to * this.size),
        unzoom: () => look.zoom(null, null),
        click: (x) => this.open(x * this.size),
      },
    );
  }

  drop() {
    drop(this.plot);
  }

  /** The plot as a slider over its points: what a screen reader hears, and arrows move. */
  slide() {
    const { frame, look } = this;
    if (!this.xs.length) {
      for (const name of ['role', 'tabindex', 'aria-valuenow', 'aria-valuetext']) frame.removeAttribute(name);
      return;
    }
    const at = this.at ?? this.xs.length - 1;
    const shown = look.x === 'time' ? `${num(Math.round(this.xs[at]))} s` : `step ${num(this.xs[at])}`;
    const figures = this.members()
      .filter((one) => one.curve?.x.length && !one.hidden)
      .map((one) => {
        const near = nearest(one.curve.x, this.xs[at]);
        return one.curve.x[near] === this.xs[at] ? `${one.label} ${num(one.curve.y[near])}` : null;
      });
    const values = {
      role: 'slider',
      tabindex: 0,
      'aria-label': `${this.chart.title}: points of the chart`,
      'aria-describedby': look.hint,
      'aria-valuemin': this.xs[0],
      'aria-valuemax': this.xs[this.xs.length - 1],
      'aria-valuenow': this.xs[at],
      'aria-valuetext': `${shown}: ${figures.filter(Boolean).join(', ')}`,
    };
    for (const [name, value] of Object.entries(values)) frame.setAttribute(name, String(value));
  }

  key(event) {
    const end = this.xs.length - 1;
    const at = this.at ?? end;
    const page = Math.max(1, Math.round(end / 10));
    const moves = {
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      Home: 0,
      End: end,
      PageDown: at - page,
      PageUp: at + page,
    };
    if (event.key in moves) {
      this.at = Math.min(end, Math.max(0, moves[event.key]));
      this.slide();
      point(this.plot, this.xs[this.at] / this.size);
    } else if (event.key === 'Enter') this.open(this.xs[at]);
    else if (event.key === 'Escape') this.leave();
    else return;
    event.preventDefault();
  }

  leave() {
    point(this.plot, null);
  }

  /** Steps of the episodes at x of a run's curve: [from, to], or null where the curve can't say. */
  steps(x, run) {
    if (this.look.stage !== 'rl') return null;
    const known = this.members().filter((one) => one.curve?.x.length && (!run || one.run.id === run));
    const one = known.sort((a, b) => gap(a, x) - gap(b, x))[0];
    const steps = one && (this.look.x === 'step' ? one.curve.x : one.curve.steps);
    return steps ? [one.run.id, ...episodeSteps(steps, nearest(one.curve.x, x))] : null;
  }

  open(x) {
    const found = this.steps(x);
    if (found) this.look.open(...found);
  }

  tabulate() {
    if (!this.values.open || !this.curves) return;
    const members = this.members().filter((one) => one.curve?.x.length);
    const rows = [...new Set(members.flatMap((one) => one.curve.x))].sort((a, b) => b - a);
    const { look } = this;
    const cell = (one, x) => {
      const at = nearest(one.curve.x, x);
      return el('td', { class: 'n' }, one.curve.x[at] === x ? num(one.curve.y[at]) : '');
    };
    const first = (x) => {
      const found = look.runs.length === 1 ? this.steps(x) : null;
      const words = look.x === 'time' ? num(Math.round(x)) : num(x);
      return el(
        'th',
        { scope: 'row' },
        found ? el('a', { href: look.link(...found), title: 'episodes of this step' }, words) : words,
      );
    };
    const head = el(
      'tr',
      {},
      el('th', { scope: 'col' }, look.x === 'time' ? 'seconds' : 'step'),
      members.map((one) => el('th', { scope: 'col', class: 'n' }, one.label)),
    );
    const table = el(
      'table',
      {},
      el('thead', {}, head),
      el(
        'tbody',
        {},
        rows.slice(0, ROWS).map((x) =>
          el(
            'tr',
            {},
            first(x),
            members.map((one) => cell(one, x)),
          ),
        ),
      ),
    );
    put(
      this.table,
      scroller(`Values of ${this.chart.title}`, { class: 'values-box' }, table),
      rows.length > ROWS && el('p', { class: 'note' }, `The newest ${ROWS} of ${rows.length} points.`),
    );
  }
}

const gap = (one, x) => Math.abs(one.curve.x[nearest(one.curve.x, x)] - x);

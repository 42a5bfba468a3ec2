// One chart of the overview: its words and latest figures, a legend of buttons, the plot, and its values as a table.

import { curveStyle } from './colours.js';
import { Cursor } from './cursor.js';
import { episodeSteps, nearest, timeUnit } from './curves.js';
import { el, put } from './dom.js';
import { showLegend } from './legend.js';
import { logAxis } from './logaxis.js';
import { draw, drop } from './plots.js';
import { valuesTable } from './values.js';

export class Figure {
  /** `look`: what all charts share, see charts.js. */
  constructor(chart, look) {
    this.chart = chart;
    this.look = look;
    this.curves = null;
    this.legend = el('ul', { class: 'legend' });
    this.plot = el('div', { class: 'plot', 'aria-hidden': 'true' });
    this.axisNote = el('p', { class: 'note', 'data-testid': 'axis-note', hidden: true });
    this.frame = el('div', { class: 'plot-frame' }, this.plot);
    this.cursor = new Cursor(this.frame, this.plot, chart.title, look.hint, (x) => this.open(x));
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
      this.axisNote,
      this.legend,
    );
    this.node = el(
      'figure',
      { id: `chart-${chart.id}`, class: 'chart', 'data-testid': 'chart', 'data-chart': chart.id },
      this.caption,
      this.frame,
      this.values,
    );
    this.relabel();
  }

  get names() {
    return this.chart.names;
  }

  take(curves) {
    this.curves = curves;
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
    return runs.flatMap((run) =>
      this.names.map((name, i) => {
        const key = `${run.id}:${name.replaceAll(',', ';')}`; // keys of an address are parted by commas
        const style = curveStyle({
          run: run.index,
          runs: this.stacked ? 1 : runs.length,
          name: i,
          names: this.names.length,
          ramp,
          metric: name,
        });
        const label = runs.length < 2 ? labels[i] : this.names.length < 2 ? run.name : `${run.name} · ${labels[i]}`;
        return {
          key,
          name,
          word: labels[i],
          run,
          label,
          style,
          hidden: this.look.hidden.has(key),
          curve: this.curves?.[run.id]?.[name] ?? null,
        };
      }),
    );
  }

  relabel() {
    const known = this.curves !== null;
    const items = this.members().filter((one) => !known || one.curve?.x.length);
    showLegend(this.legend, items, { look: this.look, names: this.names, stacked: this.stacked, known });
  }

  /** Those that have values. */
  drawn() {
    return this.members().filter((one) => one.curve?.x.length);
  }

  /** Draws what is known. */
  async draw() {
    if (!this.curves) return;
    const { look } = this;
    const members = this.drawn();
    const rows = look.runs.filter((run) => members.some((one) => one.run === run));
    const all = members.flatMap((one) => [one.curve.x[0], one.curve.x[one.curve.x.length - 1]]);
    this.frame.classList.toggle('empty', !all.length);
    const longest = Math.max(0, ...all, look.range[1] ?? 0);
    const [size, unit] = look.x === 'time' ? timeUnit(longest) : [1, ''];
    this.size = size;
    this.cursor.take(members, { size, time: look.x === 'time' });
    const seen = members.filter((one) => !one.hidden).map((one) => one.curve.y);
    const { log, words } = logAxis(seen, look.log, this.stacked);
    this.axisNote.textContent = words;
    this.axisNote.hidden = !words;
    const scaled = (list) => (size === 1 ? list : list.map((v) => v / size));
    await draw(
      this.plot,
      {
        series: members.map((one) => ({
          ...one,
          ...one.curve,
          x: scaled(one.curve.x),
          label: this.stacked ? one.word : one.label,
          row: rows.indexOf(one.run),
        })),
        rows: rows.map((run) => run.name),
        stacked: this.stacked,
        smoothing: look.smoothing,
        log,
        unit: this.chart.unit,
        xTitle: look.x === 'time' ? `time since the start (${unit})` : 'step',
        xHover: look.x === 'time' ? `%{x:.4~g} ${unit}` : 'step %{x}',
        range: look.range.map((v) => (v === null ? null : v / size)),
        extent: all.length ? [Math.min(...all) / size, Math.max(...all) / size] : [0, 1],
      },
      {
        zoom: (from, to) => look.zoom(from * this.size, to * this.size),
        unzoom: () => look.zoom(null, null),
        click: (x, run) => this.open(x * this.size, run),
      },
    );
  }

  drop() {
    drop(this.plot);
  }

  /** Run (the one asked for, or that of the nearest curve) and steps of the episodes at x, [run, from, to], or null where the curve can't say. */
  steps(x, run = null) {
    if (this.look.stage !== 'rl') return null;
    const shown = this.drawn().filter((one) => !one.hidden && (run === null || one.run.id === run));
    const one = shown.sort((a, b) => gap(a, x) - gap(b, x))[0];
    const steps = one && (this.look.x === 'step' ? one.curve.x : one.curve.steps);
    return steps ? [one.run.id, ...episodeSteps(steps, nearest(one.curve.x, x))] : null;
  }

  open(x, run) {
    const found = this.steps(x, run);
    if (found) this.look.open(...found);
  }

  tabulate() {
    if (!this.values.open || !this.curves) return;
    const { look } = this;
    const link = (x) => {
      const found = look.runs.length === 1 ? this.steps(x) : null;
      return found && look.link(...found);
    };
    put(this.table, valuesTable(this.chart.title, this.drawn(), look.x === 'time', link));
  }
}

const gap = (one, x) => Math.abs(one.curve.x[nearest(one.curve.x, x)] - x);

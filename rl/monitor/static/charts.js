// The charts of the overview: which are in view, what they need to be asked for, and when they are drawn anew.

import { get, getIfNew, forget } from './api.js';
import { onScheme } from './colours.js';
import { el, problem, put } from './dom.js';
import { Figure } from './figure.js';
import { load } from './plots.js';
import { debounce } from './poll.js';

const POINTS = 400; // of a curve: a chart is some 450 pixels wide
const MARGIN = '250px';
const OWNER = 'charts';

export class Charts {
  /** `look`: { runs, stage, x, range, smoothing, log, hidden, toggle, zoom, open, link, hint } of the overview. */
  constructor(look, signal) {
    this.look = look;
    this.signal = signal;
    this.figures = new Map();
    this.visible = new Set();
    this.stale = new Set(); // in need of drawing, once in view
    this.layoutKey = '';
    this.cost = 0; // ms that the last drawing took of this machine, which may be the one that trains
    this.node = el('div', { class: 'charts', 'data-testid': 'charts' });
    this.trouble = el('div');
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: MARGIN });
    const again = debounce(() => this.redraw(), 120);
    addEventListener('resize', again, { signal });
    onScheme(() => this.relabel(), signal);
    signal.addEventListener('abort', () => this.clear());
  }

  clear() {
    this.watcher.disconnect();
    for (const figure of this.figures.values()) figure.drop();
    this.figures.clear();
  }

  /** Lays out the charts, where they are others than before. `list`: of /api/charts. */
  lay(list) {
    const key = JSON.stringify([list, this.look.runs.map((run) => run.id), this.look.stage]);
    if (key === this.layoutKey) return;
    this.layoutKey = key;
    const kept = new Map(this.figures);
    this.figures = new Map();
    for (const chart of list) {
      const old = kept.get(chart.id);
      const same = old && JSON.stringify(old.chart) === JSON.stringify(chart);
      const figure = same ? old : new Figure(chart, this.look);
      if (same) kept.delete(chart.id);
      figure.curves = null;
      this.figures.set(chart.id, figure);
      this.stale.add(figure);
    }
    for (const gone of kept.values()) {
      this.watcher.unobserve(gone.node);
      this.visible.delete(gone);
      this.stale.delete(gone);
      gone.drop();
    }
    forget(OWNER);
    put(
      this.node,
      [...this.figures.values()].map((figure) => figure.node),
    );
    for (const figure of this.figures.values()) this.watcher.observe(figure.node);
  }

  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const figure = this.figures.get(target.dataset.chart);
      if (!figure) continue;
      if (isIntersecting) this.visible.add(figure);
      else this.visible.delete(figure);
    }
    this.fill().catch((error) => this.fail(error));
  }

  /** Asks for the curves of charts in view that have none yet, and draws what is due. */
  async fill() {
    const empty = [...this.visible].filter((figure) => !figure.curves);
    if (empty.length) await this.ask(empty, (path, params) => get(path, params, this.signal));
    await this.paint();
  }

  /** Asks whether the curves in view have changed; those that are out of view are asked for when they come into it. */
  async refresh() {
    const shown = [...this.visible];
    if (!shown.length) return false;
    const whole = shown.every((figure) => figure.curves);
    const changed = await this.ask(shown, (path, params) =>
      whole ? getIfNew(OWNER, path, params, this.signal) : get(path, params, this.signal),
    );
    if (changed) for (const figure of this.figures.values()) if (!this.visible.has(figure)) figure.curves = null;
    await this.paint();
    return changed;
  }

  /** What the curves were asked for; an answer to another question than the last comes too late. */
  question() {
    return JSON.stringify([this.layoutKey, this.look.x, this.look.range]);
  }

  async ask(figures, how) {
    const { look } = this;
    const params = {
      runs: look.runs.map((run) => run.id),
      stage: look.stage,
      name: figures.flatMap((figure) => figure.names),
      x: look.x,
      from: look.range[0],
      to: look.range[1],
      points: POINTS,
    };
    const key = this.question();
    const answer = params.runs.length ? await how('/api/curves', params) : { curves: {} };
    if (!answer || key !== this.question()) return false;
    put(this.trouble);
    for (const figure of figures) {
      figure.take(answer.curves);
      this.stale.add(figure);
    }
    return true;
  }

  /** Draws what is due and in view, one chart a frame, so that the page stays quick. */
  async paint() {
    if (this.painting) return;
    this.painting = true;
    this.cost = 0;
    try {
      await load();
      for (let next; (next = [...this.stale].find((figure) => this.visible.has(figure) && figure.curves));) {
        this.stale.delete(next);
        const start = performance.now();
        await next.draw().catch((error) => this.fail(error));
        this.cost += performance.now() - start;
        await new Promise(requestAnimationFrame);
        if (this.signal.aborted) return;
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.painting = false;
    }
  }

  fail(error) {
    if (this.signal.aborted || error.name === 'AbortError') return;
    if (error.status === undefined) console.error(error);
    put(
      this.trouble,
      problem(error.message, () => this.renew()),
    );
  }

  /** Draws all anew from what is known. */
  redraw() {
    for (const figure of this.figures.values()) this.stale.add(figure);
    return this.paint();
  }

  /** The same with new legends: other colours, or other curves hidden. */
  relabel() {
    for (const figure of this.figures.values()) figure.relabel();
    return this.redraw();
  }

  /** Asks for all anew: another range, or another x. The old curves stand until then. */
  async renew() {
    const shown = [...this.visible];
    for (const figure of this.figures.values()) if (!this.visible.has(figure)) figure.curves = null;
    try {
      if (shown.length) await this.ask(shown, (path, params) => get(path, params, this.signal));
      await this.paint();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Brings a chart into view and to the keyboard. False where there is none of that id. */
  show(id) {
    const figure = this.figures.get(id);
    if (!figure) return false;
    figure.node.scrollIntoView({ block: 'center' });
    const target = figure.frame.hasAttribute('tabindex') ? figure.frame : figure.legend.querySelector('button');
    target?.focus({ preventScroll: true });
    figure.node.classList.add('pointed');
    setTimeout(() => figure.node.classList.remove('pointed'), 2500);
    return true;
  }
}

// The charts of the overview: which are in view, what they need to be asked for, and when they are drawn anew.

import { get, getIfNew } from './api.js';
import { Chart } from './chart.js';
import { onScheme } from './colors.js';
import { el, problem, put } from './dom.js';
import { load } from './plots.js';
import { debounce } from './poll.js';

const POINTS = 400; // of a curve: a chart is some 450 pixels wide
const MARGIN = '250px';

export class Charts {
  /** `look`: { runs, stage, x, range, smoothing, log, hidden, hide, zoom, open, link } of the overview. */
  constructor(look, signal) {
    Object.assign(this, { look, signal, all: new Map(), visible: new Set(), layout: '', asked: {} });
    this.stale = new Set(); // in need of drawing, once in view
    this.cost = 0; // ms that the last drawing took of this machine, which may be the one that trains
    this.node = el('div', { class: 'charts', 'data-testid': 'charts' });
    this.trouble = el('div');
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: MARGIN });
    addEventListener('resize', debounce(() => this.redraw(), 120), { signal });
    onScheme(() => this.redraw(), signal);
    signal.addEventListener('abort', () => this.lay([]));
  }

  /** Lays out the charts, where they are others than before. `list`: of /api/charts. */
  lay(list) {
    const layout = JSON.stringify([list, this.look.runs.map((run) => run.id), this.look.stage]);
    if (layout === this.layout) return;
    const old = this.all;
    this.layout = layout;
    this.all = new Map(
      list.map((chart) => {
        const known = old.get(chart.id);
        const same = known && JSON.stringify(known.chart) === JSON.stringify(chart);
        return [chart.id, same ? known : new Chart(chart, this.look)];
      }),
    );
    const now = [...this.all.values()];
    for (const gone of [...old.values()].filter((one) => !now.includes(one))) {
      this.watcher.unobserve(gone.node);
      this.visible.delete(gone);
      gone.drop();
    }
    this.stale = new Set(now);
    put(this.node, now.map((chart) => chart.node));
    for (const chart of now) {
      chart.curves = null;
      this.watcher.observe(chart.node);
    }
  }

  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const chart = this.all.get(target.dataset.chart);
      if (chart && isIntersecting) this.visible.add(chart);
      else this.visible.delete(chart);
    }
    this.try(() => this.ask([...this.visible].filter((chart) => !chart.curves)));
  }

  /** Asks whether the curves in view have changed; those that are out of view are asked for when they come into it. */
  async refresh() {
    const changed = await this.ask([...this.visible]);
    if (changed) for (const chart of this.all.values()) if (!this.visible.has(chart)) chart.curves = null;
    return changed;
  }

  /** Asks for all anew: another range, or another x. The old curves stay until then. */
  renew() {
    for (const chart of this.all.values()) if (!this.visible.has(chart)) chart.curves = null;
    return this.try(() => this.ask([...this.visible]));
  }

  /** Asks for the curves of these charts and draws what is due. Whether anything is new. */
  async ask(charts) {
    const { look } = this;
    const question = () => JSON.stringify([this.layout, look.x, look.range]);
    const asked = question();
    const params = {
      runs: look.runs.map((run) => run.id),
      stage: look.stage,
      name: charts.flatMap((chart) => chart.names),
      x: look.x,
      from: look.range[0],
      to: look.range[1],
      points: POINTS,
    };
    const some = charts.length > 0 && params.runs.length > 0;
    const how = charts.every((chart) => chart.curves) ? getIfNew.bind(null, this.asked) : get;
    const answer = some ? await how('/api/curves', params, this.signal) : null;
    const fresh = answer !== null && asked === question(); // an answer to another question than the last comes too late
    if (fresh) {
      put(this.trouble);
      for (const chart of charts) {
        chart.take(answer.curves);
        this.stale.add(chart);
      }
    }
    await this.paint();
    return fresh;
  }

  /** Draws what is due and in view, one chart a frame, so that the page stays quick. */
  async paint() {
    if (this.painting) return;
    this.painting = true;
    this.cost = 0;
    try {
      await load();
      for (let next; (next = [...this.stale].find((chart) => this.visible.has(chart) && chart.curves)); ) {
        this.stale.delete(next);
        const start = performance.now();
        await this.try(() => next.draw());
        this.cost += performance.now() - start;
        await new Promise(requestAnimationFrame);
        if (this.signal.aborted) return;
      }
    } finally {
      this.painting = false;
    }
  }

  /** Does `work`; what goes wrong is said above the charts. */
  async try(work) {
    try {
      await work();
    } catch (error) {
      if (this.signal.aborted || error.name === 'AbortError') return;
      if (error.status === undefined) console.error(error);
      put(this.trouble, problem(error.message, () => this.renew()));
    }
  }

  /** Draws all anew from what is known. */
  redraw() {
    for (const chart of this.all.values()) this.stale.add(chart);
    return this.try(() => this.paint());
  }

  /** Brings a chart into view and to the keyboard. False where there is none of that id. */
  show(id) {
    const chart = this.all.get(id);
    if (!chart) return false;
    chart.node.scrollIntoView({ block: 'center' });
    chart.values.querySelector('summary').focus({ preventScroll: true });
    chart.node.classList.add('pointed');
    setTimeout(() => chart.node.classList.remove('pointed'), 2500);
    return true;
  }
}

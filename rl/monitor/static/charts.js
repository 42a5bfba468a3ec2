// The charts of the overview: which are in view, which data they request, and when they are redrawn.

import { get, getIfNew } from './api.js';
import { Chart } from './chart.js';
import { onScheme } from './colors.js';
import { el, problem, put } from './dom.js';
import { load } from './plots.js';
import { debounce } from './poll.js';

const POINTS = 400; // per curve: a chart is about 450 pixels wide
const MARGIN = '250px';

export class Charts {
  /** `look`: { runs, stage, x, range, smoothing, log, hidden, hide, zoom, open, link } of the overview. */
  constructor(look, signal) {
    Object.assign(this, { look, signal, all: new Map(), visible: new Set(), layout: '', asked: {} });
    this.stale = new Set(); // charts to draw once they are in view
    this.cost = 0; // ms of the last drawing: this machine may also be training
    this.node = el('div', { class: 'charts', 'data-testid': 'charts' });
    this.trouble = el('div');
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: MARGIN });
    addEventListener('resize', debounce(() => this.redraw(), 120), { signal });
    onScheme(() => this.redraw(), signal);
    signal.addEventListener('abort', () => this.lay([]));
  }

  /** Lays out the charts if they have changed. `list`: of /api/charts. */
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

  /** Checks whether the curves in view have changed; the others are requested when they come into view. */
  async refresh() {
    const changed = await this.ask([...this.visible]);
    if (changed) for (const chart of this.all.values()) if (!this.visible.has(chart)) chart.curves = null;
    return changed;
  }

  /** Requests all curves again for a new range or x. The old curves stay until then. */
  renew() {
    for (const chart of this.all.values()) if (!this.visible.has(chart)) chart.curves = null;
    return this.try(() => this.ask([...this.visible]));
  }

  /** Requests the curves of these charts and draws stale ones. Returns whether anything is new. */
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
    const fresh = answer !== null && asked === question(); // a response to an outdated request comes too late
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

  /** Draws stale charts in view, one per frame, so that the page stays responsive. */
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

  /** Runs `work`; errors are shown above the charts. */
  async try(work) {
    try {
      await work();
    } catch (error) {
      if (this.signal.aborted || error.name === 'AbortError') return;
      if (error.status === undefined) console.error(error);
      put(this.trouble, problem(error.message, () => this.renew()));
    }
  }

  /** Redraws all charts from the curves in memory. */
  redraw() {
    for (const chart of this.all.values()) this.stale.add(chart);
    return this.try(() => this.paint());
  }

  /** Scrolls to a chart and focuses it. Returns false if none has that id. */
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

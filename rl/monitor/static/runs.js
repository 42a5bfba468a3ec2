// The runs: a line for each with its current state, and its config.

import { get } from './api.js';
import { isDark, runStyle, swatch } from './colors.js';
import { el, facts, fold, lazyFold, model, put, putIfNew, scroller, sign, text, unseen } from './dom.js';
import { ago, count, num, percent, whole } from './format.js';
import { href } from './state.js';

const STATES = {
  running: ['●', 'running'],
  finished: ['✓', 'finished'],
  stopped: ['■', 'stopped'],
  waiting: ['○', 'no log yet'],
  missing: ['!', 'missing'],
  foreign: ['!', 'not a run'],
};

const FOLD_ABOVE = 8; // runs; above it, unchecked runs are folded

/** The list of runs. Lines are reused, so that their open parts and focus are kept. */
export class RunList {
  /** `choose(id, on)`: called to show or hide a run's curves. */
  constructor(choose) {
    this.choose = choose;
    this.lines = new Map();
    this.list = el('ul', { class: 'runs' });
    this.others = el('ul', { class: 'runs' });
    this.words = el('span');
    this.fold = fold(this.words, () => {}, { class: 'other-runs', hidden: true }, this.others);
    this.node = el('div', { 'data-testid': 'runs' }, this.list, this.fold);
  }

  /** `chosen`: ids of the drawn runs. `now`: the server's clock. */
  show(runs, chosen, now) {
    const ids = runs.map((run) => run.id);
    for (const run of runs) if (!this.lines.has(run.id)) this.lines.set(run.id, new Line(run, this.choose));
    const away = runs.length > FOLD_ABOVE ? ids.filter((id) => !chosen.includes(id)) : [];
    const nodes = (list) => list.map((id) => this.lines.get(id).node);
    const active = document.activeElement;
    const here = ids.filter((id) => !away.includes(id));
    putIfNew(this.node, [here, away], () => {
      put(this.list, nodes(here));
      put(this.others, nodes(away));
      return [this.list, this.fold];
    });
    this.fold.hidden = !away.length;
    if (this.others.contains(active)) this.fold.open = true; // a run that was just unchecked moved there
    if (this.node.contains(active)) active.focus({ preventScroll: true });
    putIfNew(this.words, away.length, () => `${count(away.length, 'run')} without curves here`);
    for (const run of runs) this.lines.get(run.id).show(run, chosen.includes(run.id), runs.length > 1, now);
  }
}

class Line {
  constructor(run, choose) {
    const tick = (event) => choose(run.id, event.target.checked);
    this.tick = el('input', { type: 'checkbox', 'data-run': run.id, onchange: tick });
    this.swatch = el('span');
    const name = el('label', { class: 'run-name' }, this.tick, this.swatch, el('strong', {}, text(run.name)));
    this.state = el('span');
    this.figures = el('div');
    this.progress = el('progress', { max: 1, 'aria-label': `Steps of ${run.name}` });
    this.updated = el('span', { class: 'muted' });
    this.message = el('div');
    const episodes = el('a', { href: href('episodes', { run: run.id }) }, 'episodes', unseen(` of ${run.name}`));
    const parts = [name, this.state, this.figures, this.progress, this.updated, config(run), episodes];
    this.node = el('li', { class: 'run', 'data-testid': 'run', 'data-run': run.id }, el('div', { class: 'run-line' }, parts), this.message);
  }

  show(run, on, several, now) {
    this.tick.hidden = this.swatch.hidden = !several;
    this.tick.checked = on;
    putIfNew(this.swatch, [run.index, isDark()], () => swatch(runStyle(run.index)));
    const [icon, words] = STATES[run.state];
    this.state.className = `state ${run.state}`;
    putIfNew(this.state, run.state, () => [sign(icon), ` ${words}`]);
    const figures = numbers(run);
    putIfNew(this.figures, figures, () => facts(figures));
    this.progress.hidden = !run.max_steps || run.step === null;
    this.progress.value = this.progress.hidden ? 0 : Math.min(1, run.step / run.max_steps);
    const updated = run.updated ? `updated ${ago(Math.max(0, now - run.updated))}` : 'nothing logged yet';
    putIfNew(this.updated, updated, () => updated);
    const notice = () => run.message && el('p', { class: 'notice warn', 'data-testid': 'run-message' }, text(run.message));
    putIfNew(this.message, run.message, notice);
  }
}

/** Returns [name, value] pairs for a run's line. */
function numbers({ stage, step, max_steps, latest }) {
  const known = (name) => typeof latest[name] === 'number';
  return [
    stage && ['stage', stage],
    step !== null && ['step', `${whole(step)}${max_steps ? ` of ${whole(max_steps)}` : ''}`],
    known('accuracy/mean') && ['accuracy', percent(latest['accuracy/mean'])],
    known('reward/mean') && ['reward', num(latest['reward/mean'])],
    stage === 'sft' && known('loss') && ['loss', num(latest.loss)],
  ];
}

/** Folder and config.yaml, read when opened. */
function config(run) {
  const read = async () => {
    const { text: yaml } = await get('/api/config', { run: run.id });
    return scroller(`config.yaml of ${run.name}`, { class: 'config' }, model(yaml, 'pre'));
  };
  const made = lazyFold(['Folder and config', unseen(` of ${run.name}`)], read, { class: 'run-config' });
  made.firstChild.after(el('p', { class: 'muted path' }, text(run.folder)));
  return made;
}

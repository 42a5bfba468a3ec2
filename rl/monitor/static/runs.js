// The runs: a line for each with what it does now, and its config.

import { get } from './api.js';
import { isDark, runStyle } from './colours.js';
import { el, model, problem, put, putIfNew, scroller, text } from './dom.js';
import { ago, count, num, percent, whole } from './format.js';
import { swatch } from './legend.js';
import { href } from './state.js';

const STATES = {
  running: ['●', 'running'],
  finished: ['✓', 'finished'],
  stopped: ['■', 'stopped'],
  waiting: ['○', 'no log yet'],
  missing: ['!', 'gone'],
  foreign: ['!', 'not a run'],
};

const FOLD_ABOVE = 8; // runs; those that are not ticked are then folded

const known = (value) => typeof value === 'number';

/** The list of runs. Each line stays while its run does, so that what is open in it or has the focus stays too. */
export class RunList {
  /** `choose(id, on)`: its curves shall be drawn, or not. */
  constructor(choose) {
    this.choose = choose;
    this.lines = new Map();
    this.list = el('ul', { class: 'runs' });
    this.others = el('ul', { class: 'runs' });
    this.words = el('summary');
    this.fold = el('details', { class: 'other-runs', hidden: true }, this.words, this.others);
    this.node = el('div', { 'data-testid': 'runs' }, this.list, this.fold);
  }

  /** `chosen`: ids of those that are drawn. `now`: the clock of the server. */
  show(runs, chosen, now) {
    const ids = runs.map((run) => run.id);
    for (const run of runs) if (!this.lines.has(run.id)) this.lines.set(run.id, new Line(run, this.choose));
    const fold = runs.length > FOLD_ABOVE;
    const away = fold ? ids.filter((id) => !chosen.includes(id)) : [];
    const nodes = (list) => list.map((id) => this.lines.get(id).node);
    const active = document.activeElement;
    const here = ids.filter((id) => !away.includes(id));
    putIfNew(this.node, [here, away], () => {
      put(this.list, nodes(here));
      put(this.others, nodes(away));
      return [this.list, this.fold];
    });
    this.fold.hidden = !away.length;
    if (this.others.contains(active)) this.fold.open = true; // a run that was just unticked went there
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
    this.figures = el('dl', { class: 'figures' });
    this.progress = el('progress', { max: 1, 'aria-label': `Steps of ${run.name}` });
    this.updated = el('span', { class: 'muted' });
    this.message = el('div');
    const of = el('span', { class: 'sr' }, ` of ${run.name}`);
    const episodes = el('a', { href: href('episodes', { run: run.id }) }, 'episodes', of);
    const parts = [name, this.state, this.figures, this.progress, this.updated, config(run, () => this.run), episodes];
    const line = el('div', { class: 'run-line' }, parts);
    this.node = el('li', { class: 'run', 'data-testid': 'run', 'data-run': run.id }, line, this.message);
  }

  show(run, on, several, now) {
    this.run = run;
    this.tick.hidden = this.swatch.hidden = !several;
    this.tick.checked = on;
    putIfNew(this.swatch, [run.index, isDark()], () => swatch(runStyle(run.index)));
    const [icon, words] = STATES[run.state];
    this.state.className = `state ${run.state}`;
    putIfNew(this.state, run.state, () => [el('span', { 'aria-hidden': 'true' }, icon), ` ${words}`]);
    const figures = facts(run);
    const pair = ([term, value]) => el('div', {}, el('dt', {}, term), el('dd', {}, value));
    putIfNew(this.figures, figures, () => figures.map(pair));
    this.progress.hidden = !run.max_steps || run.step === null;
    this.progress.value = this.progress.hidden ? 0 : Math.min(1, run.step / run.max_steps);
    const updated = run.updated ? `updated ${ago(Math.max(0, now - run.updated))}` : 'nothing logged yet';
    putIfNew(this.updated, updated, () => updated);
    const notice = () =>
      run.message && el('p', { class: 'notice warn', 'data-testid': 'run-message' }, text(run.message));
    putIfNew(this.message, run.message, notice);
  }
}

/** [name, value] of what a line shows. */
function facts({ stage, step, max_steps, latest }) {
  return [
    stage && ['stage', stage],
    step !== null && ['step', `${whole(step)}${max_steps ? ` of ${whole(max_steps)}` : ''}`],
    known(latest['accuracy/mean']) && ['accuracy', percent(latest['accuracy/mean'])],
    known(latest['reward/mean']) && ['reward', num(latest['reward/mean'])],
    stage === 'sft' && known(latest.loss) && ['loss', num(latest.loss)],
  ].filter(Boolean);
}

/** Folder and config.yaml, read when opened. `now()`: the run as it is known now. */
function config(run, now) {
  const box = el('div');
  const open = async (event) => {
    if (!event.target.open || now().state === 'missing') return;
    try {
      const { text: yaml } = await get('/api/config', { run: run.id });
      put(box, scroller(`config.yaml of ${run.name}`, { class: 'config' }, model(yaml, 'pre')));
    } catch (error) {
      put(box, problem(error.message));
    }
  };
  return el(
    'details',
    { class: 'run-config', ontoggle: open },
    el('summary', {}, 'Folder and config', el('span', { class: 'sr' }, ` of ${run.name}`)),
    el('p', { class: 'muted path' }, text(run.folder)),
    box,
  );
}

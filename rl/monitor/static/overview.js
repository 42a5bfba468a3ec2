// The overview: runs, warnings, evaluation and charts, updated while a run is active.

import { get, getIfNew } from './api.js';
import { Charts } from './charts.js';
import { controls, isCrossed, STAGES } from './controls.js';
import { el, problem, put, putIfNew, text } from './dom.js';
import { showEvals } from './evals.js';
import { poll } from './poll.js';
import { RunList } from './runs.js';
import { href } from './state.js';
import { Warnings } from './warnings.js';

const QUICK = 2500; // ms between two requests while a run is active,
const REST = 20; // or this many times the drawing time: a slow machine draws less often
const SLOW = 10000; // ms while no run is active
const MOST_RUNS = 6; // chosen by default if the URL names none

export function mount(root, view, signal) {
  const evals = el('section', { class: 'evals', 'aria-label': 'Evaluation' });
  const trouble = el('div');
  const lack = el('div');
  const list = new RunList(choose);
  const warnings = new Warnings(goTo);
  const told = {}; // the last response of /api/warnings
  let runs = [];
  let shown = ''; // ids and stage of the charts
  let wanted = null; // chart to scroll to once it exists

  const look = {
    runs: [],
    stage: 'rl',
    get x() {
      return view.get('x') === 'time' ? 'time' : 'step';
    },
    get range() {
      return isCrossed(view) ? [null, null] : [view.number('from'), view.number('to')];
    },
    get smoothing() {
      return Math.min(0.99, Math.max(0, view.number('smooth') ?? 0));
    },
    get log() {
      return view.get('log') === '1';
    },
    get hidden() {
      return new Set(view.list('hide'));
    },
    /** Of the curves `keys`, hides those in `hidden` and shows the others. */
    hide(keys, hidden) {
      const others = view.list('hide').filter((key) => !keys.includes(key));
      view.set({ hide: [...others, ...hidden] });
    },
    zoom(from, to) {
      const whole = to - from > 2; // steps or seconds
      const tidy = (v) => (v === null ? null : whole ? Math.round(v) : Number(v.toPrecision(6)));
      bar.range(tidy(from), tidy(to));
    },
    link: (run, from, to) => href('episodes', { run, source: 'train', step_from: from, step_to: to }),
    open: (run, from, to) => {
      location.hash = look.link(run, from, to);
    },
  };
  const charts = new Charts(look, signal);
  const pins = () => (look.runs.length ? { runs: look.runs.map((run) => run.id), stage: look.stage } : {});
  const bar = controls(view, changed, pins);
  const heading = (id, words, attrs) => el('h2', { id, ...attrs }, words);
  const part = (id, words, attrs, ...inside) =>
    el('section', { 'aria-labelledby': id }, heading(id, words, attrs), inside);
  const section = part('charts-title', 'Charts', {}, bar.node, lack, charts.trouble, charts.node);
  put(
    root,
    el('h1', { tabindex: -1 }, 'Overview'),
    part('runs-title', 'Runs', { class: 'sr' }, list.node),
    trouble,
    part('warnings-title', 'Warnings', { class: 'sr' }, warnings.node),
    evals,
    section,
  );

  const chosen = () => {
    const asked = view.list('runs');
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0)).slice(0, MOST_RUNS);
    return runs.filter((run) => (asked.length ? asked.includes(run.id) : newest.includes(run)));
  };

  function choose(id, on) {
    const ids = chosen().map((run) => run.id).filter((one) => one !== id);
    view.set({ runs: on ? [...ids, id] : ids.length ? ids : [id] }, true);
    again();
  }

  /** Called when a control has changed the charts' look, range or data. */
  function changed(what) {
    if (what === 'look') charts.redraw();
    else if (what === 'range') charts.renew();
    else again();
  }

  function goTo(warning) {
    if (look.stage === warning.stage && charts.show(warning.chart)) return;
    wanted = warning.chart; // it is on another stage
    view.set({ stage: warning.stage }, true);
    again();
  }

  async function turn() {
    const answer = await get('/api/runs', {}, signal);
    runs = answer.runs.map((run, index) => ({ ...run, index, latest: run.latest ?? {} }));
    look.runs = chosen();
    const ids = look.runs.map((run) => run.id);
    list.show(runs, ids, answer.time);
    showEvals(evals, look.runs);
    const stages = ['sft', 'rl'].filter((stage) => look.runs.some((run) => run.stages.includes(stage)));
    const asked = view.get('stage');
    look.stage = stages.includes(asked) ? asked : (stages.at(-1) ?? 'rl');
    bar.showStages(stages, look.stage);
    say(ids, stages);
    const key = JSON.stringify([ids, look.stage]);
    if (shown !== key) await lay(ids);
    else if (await charts.refresh()) await lay(ids); // a log line may add new metrics
    shown = key;
    const found = ids.length ? await getIfNew(told, '/api/warnings', { runs: ids }, signal) : { warnings: [] };
    if (found) warnings.show(found.warnings, look.runs);
    if (wanted && charts.show(wanted)) wanted = null;
  }

  async function lay(ids) {
    const params = { runs: ids, stage: look.stage };
    charts.lay(ids.length ? (await get('/api/charts', params, signal)).charts : []);
  }

  function say(ids, stages) {
    const missing = view.list('runs').filter((id) => !runs.some((run) => run.id === id));
    const empty = (words, attrs) => el('p', { class: 'empty', ...attrs }, words);
    const quiet = runs.length > 0 && ids.length > 0 && !stages.length;
    putIfNew(trouble, [missing, runs.length, quiet], () => [
      missing.length > 0 && problem(`There is no run ${missing.join(', ')} here.`),
      !runs.length && empty('No runs yet in the watched folders. New ones appear here automatically.'),
      quiet &&
        empty('Nothing in metrics.jsonl yet: curves start with the first log of SFT or RL.', { 'data-testid': 'no-logs' }),
    ]);
    const without = look.runs.filter((run) => !run.stages.includes(look.stage)).map((run) => run.name);
    const words = `${without.join(', ')} ${without.length > 1 ? 'have' : 'has'} not logged ${STAGES[look.stage]}.`;
    const line = () => without.length > 0 && el('p', { class: 'note', 'data-testid': 'lack' }, text(words));
    putIfNew(lack, without.length ? words : '', line);
    section.hidden = !stages.length;
  }

  const again = poll(
    turn,
    () => (runs.some((run) => run.state === 'running') ? Math.min(SLOW, Math.max(QUICK, REST * charts.cost)) : SLOW),
    signal,
  );
}

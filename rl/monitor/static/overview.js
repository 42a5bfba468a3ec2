// The overview: runs, alarms, evaluation and charts, kept up to date while a run goes on.

import { get, getIfNew } from './api.js';
import { Alarms } from './alarms.js';
import { Charts } from './charts.js';
import { controls, isCrossed, STAGES } from './controls.js';
import { el, problem, put, putIfNew, text } from './dom.js';
import { showEvals } from './evals.js';
import { poll } from './poll.js';
import { RunList } from './runs.js';
import { href } from './state.js';

const QUICK = 2500; // ms between two questions while a run goes on,
const REST = 20; // or so many times as long as drawing took: a slow machine draws less often
const SLOW = 10000; // ms while none goes on
const MOST_RUNS = 6; // that are chosen where the address names none
const HINT = 'Arrow keys move along the curve; in RL, Enter opens the episodes of that step.';

export function mount(root, view, signal) {
  const boxes = Object.fromEntries(['evals', 'controls', 'trouble', 'lack'].map((name) => [name, el('div')]));
  boxes.evals = el('section', { class: 'evals', 'aria-label': 'Evaluation' });
  boxes.controls = el('div', { class: 'controls', role: 'group', 'aria-label': 'What the charts show' });
  const list = new RunList(choose);
  const signs = new Alarms(goTo);
  let runs = [];
  let shown = ''; // ids and stage that the charts stand for
  let wanted = null; // chart to go to once it is there

  const look = {
    runs: [],
    stage: 'rl',
    hint: 'chart-hint',
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
    toggle(keys, hide) {
      const hidden = look.hidden;
      for (const key of keys) hide ? hidden.add(key) : hidden.delete(key);
      view.set({ hide: [...hidden] });
      charts.relabel();
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
  const bar = controls(boxes.controls, view, changed, pins);
  const section = el(
    'section',
    { 'aria-labelledby': 'charts-title' },
    el('h2', { id: 'charts-title' }, 'Charts'),
    boxes.controls,
    boxes.lack,
    charts.trouble,
    el('p', { class: 'sr', id: look.hint }, HINT),
    charts.node,
  );
  put(
    root,
    el('h1', { tabindex: -1 }, 'Overview'),
    el('section', { 'aria-labelledby': 'runs-title' }, el('h2', { id: 'runs-title', class: 'sr' }, 'Runs'), list.node),
    boxes.trouble,
    el(
      'section',
      { 'aria-labelledby': 'alarms-title' },
      el('h2', { id: 'alarms-title', class: 'sr' }, 'Bad signs'),
      signs.node,
    ),
    boxes.evals,
    section,
  );

  const chosen = () => {
    const asked = view.list('runs');
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0)).slice(0, MOST_RUNS);
    return runs.filter((run) => (asked.length ? asked.includes(run.id) : newest.includes(run)));
  };

  function choose(id, on) {
    const ids = chosen()
      .map((run) => run.id)
      .filter((one) => one !== id);
    view.set({ runs: on ? [...ids, id] : ids.length ? ids : [id] }, true);
    changed('stage');
  }

  /** What a control has changed. */
  function changed(what) {
    if (what === 'look') charts.redraw();
    else if (what === 'range') charts.renew();
    else again();
  }

  function goTo(alarm) {
    if (look.stage === alarm.stage && charts.show(alarm.chart)) return;
    wanted = alarm.chart; // on another stage
    view.set({ stage: alarm.stage }, true);
    again();
  }

  async function turn() {
    const answer = await get('/api/runs', {}, signal);
    runs = answer.runs.map((run, index) => ({ ...run, index, latest: run.latest ?? {} }));
    const now = answer.time ?? Date.now() / 1000;
    look.runs = chosen();
    const ids = look.runs.map((run) => run.id);
    list.show(runs, ids, now);
    showEvals(boxes.evals, look.runs);
    const stages = ['sft', 'rl'].filter((stage) => look.runs.some((run) => run.stages.includes(stage)));
    const asked = view.get('stage');
    look.stage = stages.includes(asked) ? asked : (stages.at(-1) ?? 'rl');
    bar.showStages(stages, look.stage);
    say(ids, stages);
    const key = JSON.stringify([ids, look.stage]);
    const owner = `overview ${(shown === key ? '' : 'new ') + key}`;
    if (shown !== key) await lay(ids);
    else if (await charts.refresh()) await lay(ids); // a log line may bring new names
    shown = key;
    const alarms = ids.length ? await getIfNew(owner, '/api/alarms', { runs: ids }, signal) : { alarms: [] };
    if (alarms) signs.show(alarms.alarms, look.runs);
    if (wanted && charts.show(wanted)) wanted = null;
  }

  async function lay(ids) {
    const { charts: list } = ids.length
      ? await get('/api/charts', { runs: ids, stage: look.stage }, signal)
      : { charts: [] };
    charts.lay(list);
  }

  function say(ids, stages) {
    const missing = view.list('runs').filter((id) => !runs.some((run) => run.id === id));
    const unknown = missing.length > 0 && problem(`There is no run ${missing.join(', ')} here.`);
    const none =
      !runs.length &&
      el(
        'p',
        { class: 'empty' },
        'No run yet in the folders that are watched. A run writes config.yaml first; it turns up here by itself.',
      );
    const quiet =
      runs.length > 0 &&
      ids.length > 0 &&
      !stages.length &&
      el(
        'p',
        { class: 'empty', 'data-testid': 'no-logs' },
        'Nothing in metrics.jsonl yet: curves start with the first log of SFT or RL.',
      );
    const without = look.runs.filter((run) => !run.stages.includes(look.stage)).map((run) => run.name);
    const lack = `${without.join(', ')} ${without.length > 1 ? 'have' : 'has'} not logged ${STAGES[look.stage]}.`;
    const line = () => without.length > 0 && el('p', { class: 'note', 'data-testid': 'lack' }, text(lack));
    putIfNew(boxes.lack, without.length ? lack : '', line);
    section.hidden = !stages.length;
    putIfNew(boxes.trouble, [missing, runs.length, Boolean(quiet)], () => [unknown, none, quiet]);
  }

  const again = poll(
    turn,
    () => (runs.some((run) => run.state === 'running') ? Math.min(SLOW, Math.max(QUICK, REST * charts.cost)) : SLOW),
    signal,
  );
}

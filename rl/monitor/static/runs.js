// The runs: a line for each with what it does now, its config, and the table of its evaluations.

import { get } from './api.js';
import { runStyle } from './colours.js';
import { el, model, problem, put, putIfNew, scroller, text } from './dom.js';
import { swatch } from './figure.js';
import { ago, num, percent, whole } from './format.js';
import { href } from './state.js';

const STATES = {
  running: ['●', 'running'],
  finished: ['✓', 'finished'],
  stopped: ['■', 'stopped'],
  waiting: ['○', 'no log yet'],
  missing: ['!', 'gone'],
  foreign: ['!', 'not a run'],
};

/** Lines of the runs with a checkbox each. `chosen`: ids that are drawn. `now`: the server's clock. */
export function showRuns(box, runs, chosen, now, choose) {
  const known = runs.map(({ updated, ...run }) => [
    run.id,
    run.state,
    run.message,
    run.stage,
    run.step,
    run.max_steps,
    run.latest,
    run.evals?.length,
  ]);
  putIfNew(box, [known, chosen], () => runs.map((run) => line(run, chosen, choose, runs.length)));
  for (const node of box.querySelectorAll('[data-updated]')) {
    const run = runs.find((one) => one.id === node.dataset.updated);
    const words = run?.updated ? `updated ${ago(Math.max(0, now - run.updated))}` : 'nothing logged yet';
    if (node.textContent !== words) node.textContent = words;
  }
}

function line(run, chosen, choose, total) {
  const on = chosen.includes(run.id);
  const [icon, words] = STATES[run.state];
  const tick = el('input', {
    type: 'checkbox',
    checked: on,
    disabled: total === 1,
    onchange: (event) => choose(run.id, event.target.checked),
    'data-run': run.id,
  });
  const name = el(
    'label',
    { class: 'run-name' },
    total > 1 && tick,
    total > 1 && swatch(runStyle(run.index)),
    el('strong', {}, text(run.name)),
  );
  const share = run.max_steps && run.step !== null ? Math.min(1, run.step / run.max_steps) : null;
  const figures = [
    run.stage && ['stage', run.stage],
    run.step !== null && ['step', `${whole(run.step)}${run.max_steps ? ` of ${whole(run.max_steps)}` : ''}`],
    ['accuracy/mean' in run.latest] &&
      known(run.latest['accuracy/mean']) && ['accuracy', percent(run.latest['accuracy/mean'])],
    known(run.latest['reward/mean']) && ['reward', num(run.latest['reward/mean'])],
    run.stage === 'sft' && known(run.latest.loss) && ['loss', num(run.latest.loss)],
  ].filter(Boolean);
  return el(
    'li',
    { class: 'run', 'data-testid': 'run', 'data-run': run.id },
    el(
      'div',
      { class: 'run-line' },
      name,
      el('span', { class: `state ${run.state}` }, el('span', { 'aria-hidden': 'true' }, icon), ` ${words}`),
      el(
        'dl',
        { class: 'figures' },
        figures.map(([term, value]) => el('div', {}, el('dt', {}, term), el('dd', {}, value))),
      ),
      share !== null && el('progress', { value: share, max: 1, 'aria-label': `Steps of ${run.name}` }),
      el('span', { class: 'muted', 'data-updated': run.id }),
      config(run),
      el(
        'span',
        { class: 'run-links' },
        el(
          'a',
          { href: href('episodes', { run: run.id }) },
          'episodes',
          el('span', { class: 'sr' }, ` of ${run.name}`),
        ),
      ),
    ),
    run.message && el('p', { class: 'notice warn', 'data-testid': 'run-message' }, text(run.message)),
  );
}

const known = (value) => typeof value === 'number';

function config(run) {
  const box = el('div');
  const open = async (event) => {
    if (!event.target.open || run.state === 'missing') return;
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

/** Rows of eval/summary.json of the chosen runs as one table; nothing where there are none. */
export function showEvals(box, runs) {
  const rows = runs.flatMap((run) => (run.evals ?? []).map((row) => ({ run, row })));
  putIfNew(box, [runs.length, rows.map(({ run, row }) => [run.id, row])], () => {
    if (!rows.length) return [];
    const head = [
      runs.length > 1 && 'run',
      'data set',
      'model',
      'accuracy',
      '95 % interval',
      'rounds',
      'tokens',
      'peak context',
      'answered',
      '',
    ].filter((h) => h !== false);
    const body = rows.map(({ run, row }) => {
      const interval = row.accuracy_ci95 ?? [];
      const source = `eval/${row.stage}_${row.dataset}`;
      return el(
        'tr',
        {},
        runs.length > 1 && el('th', { scope: 'row' }, text(run.name)),
        el(runs.length > 1 ? 'td' : 'th', runs.length > 1 ? {} : { scope: 'row' }, text(row.dataset)),
        el('td', {}, text(row.stage)),
        [
          percent(row.accuracy),
          `${percent(interval[0])} to ${percent(interval[1])}`,
          num(row.rounds_mean),
          num(row.tokens_mean),
          num(row.peak_context_mean),
          percent(row.stops?.answered),
        ].map((v) => el('td', { class: 'n' }, v)),
        el(
          'td',
          {},
          el(
            'a',
            { href: href('episodes', { run: run.id, source }) },
            'episodes',
            el('span', { class: 'sr' }, ` of ${row.stage} on ${row.dataset}`),
          ),
        ),
      );
    });
    const titles = head.map((h, i) =>
      h ? el('th', { scope: 'col', class: i >= head.length - 7 && h ? 'n' : '' }, h) : el('td'),
    );
    return [
      el('h2', { id: 'evals-title' }, 'Evaluation'),
      scroller(
        'Table of evaluations',
        {},
        el(
          'table',
          { 'data-testid': 'evals', 'aria-labelledby': 'evals-title' },
          el('thead', {}, el('tr', {}, titles)),
          el('tbody', {}, body),
        ),
      ),
    ];
  });
}

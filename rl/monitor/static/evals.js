// The evaluations of the chosen runs as one table.

import { el, putIfNew, scroller, text } from './dom.js';
import { num, percent } from './format.js';
import { href } from './state.js';

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

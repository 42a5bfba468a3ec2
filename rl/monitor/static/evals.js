// The evaluations of the chosen runs as one table.

import { el, fold, putIfNew, scroller, text, unseen } from './dom.js';
import { num, percent, stopWords, whole } from './format.js';
import { href } from './state.js';
import { table } from './table.js';

const STAGES = ['base', 'sft', 'rl'];
const STOPS = ['answered', 'max_rounds', 'malformed', 'truncated', 'failed'];

/** Shows the rows of eval/summary.json of the chosen runs as one table; nothing if there are none. */
export function showEvals(box, runs) {
  const rows = runs.flatMap((run) => (run.evals ?? []).map((row) => ({ run, row }))).sort(order);
  putIfNew(box, [runs.length, rows.map(({ run, row }) => [run.id, row])], () => {
    if (!rows.length) return [];
    const names = [
      runs.length > 1 && { words: 'run', cell: ({ run }) => text(run.name) },
      { words: 'data set', cell: ({ row }) => text(row.dataset) },
      { words: 'model', cell: ({ row }) => text(modelOf(row)) },
    ].filter(Boolean);
    names[0].first = true;
    const made = (title, id, columns, list) =>
      scroller(`Table: ${title}`, {}, table({ 'data-testid': id, 'aria-label': title }, [...names, ...columns], list));
    return [
      el('h2', { id: 'evals-title' }, 'Evaluation'),
      made('Evaluation', 'evals', [...columns(rows), { words: '', cell: episodes }], rows),
      byRounds(rows, made),
    ];
  });
}

/** Sorts by data set, then from the base model to the end of training; runs keep their order. */
function order({ row: a }, { row: b }) {
  const place = (row) => (STAGES.includes(row.stage) ? STAGES.indexOf(row.stage) : STAGES.length);
  return String(a.dataset).localeCompare(String(b.dataset)) || place(a) - place(b);
}

/** The model, with its label if an evaluation ran it in several ways. */
const modelOf = (row) => (row.label && row.label !== row.protocol ? `${row.stage}, ${row.label}` : row.stage);

const interval = (of) => (of ? `${percent(of[0]).replace(' %', '')} to ${percent(of[1])}` : '–');

const figure = (words, value) => ({ words, class: 'n', cell: ({ row }) => value(row) });

function columns(rows) {
  const others = rows.flatMap(({ row }) => Object.keys(row.stops ?? {})).filter((reason) => !STOPS.includes(reason));
  const most = (name) => [...new Set(rows.flatMap(({ row }) => Object.keys(row[name] ?? {})))].filter((k) => k > 1);
  const of = (name, words) => most(name).map((k) => figure(`${words}@${k}`, (row) => percent(row[name]?.[k]?.value)));
  return [
    figure('accuracy', (row) => percent(row.accuracy)),
    figure('95 % interval', (row) => interval(row.accuracy_ci95)),
    ...of('pass_at_k', 'pass'),
    ...of('maj_at_k', 'maj'),
    figure('rounds', (row) => num(row.rounds_mean)),
    figure('tokens', (row) => num(row.tokens_mean)),
    figure('peak context', (row) => num(row.peak_context_mean)),
    ...[...STOPS, ...new Set(others)].map((reason) => figure(stopWords(reason), (row) => percent(row.stops?.[reason]))),
    figure('unjudged', (row) => whole(row.unjudged)),
  ];
}

/** Accuracy by number of rounds, collapsed by default. */
function byRounds(rows, made) {
  const of = rows.filter(({ row }) => Object.keys(row.accuracy_by_rounds ?? {}).length);
  const all = [...new Set(of.flatMap(({ row }) => Object.keys(row.accuracy_by_rounds)))].sort((a, b) => a - b);
  const words = (n) => `${n} round${n === '1' ? '' : 's'}`;
  const figures = all.map((n) => figure(words(n), (row) => percent(row.accuracy_by_rounds?.[n])));
  const title = 'Accuracy by rounds';
  return of.length > 0 && fold(title, () => {}, { class: 'values' }, made(title, 'evals-by-rounds', figures, of));
}

function episodes({ run, row }) {
  const address = href('episodes', { run: run.id, source: `eval/${row.episodes ?? `${row.stage}_${row.dataset}`}` });
  return el('a', { href: address }, 'episodes', unseen(` of ${modelOf(row)} on ${row.dataset}`));
}

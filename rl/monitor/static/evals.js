// The evaluations of the chosen runs as one table.

import { el, putIfNew, scroller, text } from './dom.js';
import { num, percent, stopWords, whole } from './format.js';
import { href } from './state.js';

const STAGES = ['base', 'sft', 'rl'];
const STOPS = ['answered', 'max_rounds', 'malformed', 'truncated', 'failed'];

/** Rows of eval/summary.json of the chosen runs as one table; nothing where there are none. */
export function showEvals(box, runs) {
  const rows = runs.flatMap((run) => (run.evals ?? []).map((row) => ({ run, row }))).sort(order);
  putIfNew(box, [runs.length, rows.map(({ run, row }) => [run.id, row])], () => {
    if (!rows.length) return [];
    const several = runs.length > 1;
    return [
      el('h2', { id: 'evals-title' }, 'Evaluation'),
      table('Evaluation', 'evals', rows, several, columns(rows), episodes),
      byRounds(rows, several),
    ];
  });
}

/** Data set by data set, each from the base to the end of training; runs in their order. */
function order({ row: a }, { row: b }) {
  const place = (row) => (STAGES.includes(row.stage) ? STAGES.indexOf(row.stage) : STAGES.length);
  return String(a.dataset).localeCompare(String(b.dataset)) || place(a) - place(b);
}

/** The model, with what else differs where an evaluation ran it in several ways. */
const modelOf = (row) => (row.label && row.label !== row.protocol ? `${row.stage}, ${row.label}` : row.stage);

const interval = (of) => (of ? `${percent(of[0]).replace(' %', '')} to ${percent(of[1])}` : '–');

/** [header, value(row)] of the figures. */
function columns(rows) {
  const others = rows.flatMap(({ row }) => Object.keys(row.stops ?? {})).filter((reason) => !STOPS.includes(reason));
  const most = (name) => [...new Set(rows.flatMap(({ row }) => Object.keys(row[name] ?? {})))].filter((k) => k > 1);
  const of = (name, words) => most(name).map((k) => [`${words}@${k}`, (row) => percent(row[name]?.[k]?.value)]);
  return [
    ['accuracy', (row) => percent(row.accuracy)],
    ['95 % interval', (row) => interval(row.accuracy_ci95)],
    ...of('pass_at_k', 'pass'),
    ...of('maj_at_k', 'maj'),
    ['rounds', (row) => num(row.rounds_mean)],
    ['tokens', (row) => num(row.tokens_mean)],
    ['peak context', (row) => num(row.peak_context_mean)],
    ...[...STOPS, ...new Set(others)].map((reason) => [stopWords(reason), (row) => percent(row.stops?.[reason])]),
    ['unjudged', (row) => whole(row.unjudged)],
  ];
}

/** Accuracy of the episodes with so many rounds, folded: it is for a second look. */
function byRounds(rows, several) {
  const of = rows.filter(({ row }) => Object.keys(row.accuracy_by_rounds ?? {}).length);
  if (!of.length) return null;
  const all = [...new Set(of.flatMap(({ row }) => Object.keys(row.accuracy_by_rounds)))].sort((a, b) => a - b);
  const figures = all.map((n) => [`${n} round${n === '1' ? '' : 's'}`, (row) => percent(row.accuracy_by_rounds?.[n])]);
  return el(
    'details',
    { class: 'values' },
    el('summary', {}, 'Accuracy by rounds'),
    table('Accuracy by rounds', 'evals-by-rounds', of, several, figures),
  );
}

function table(title, id, rows, several, figures, last) {
  const names = [several && 'run', 'data set', 'model'].filter(Boolean);
  const head = [
    names.map((words) => el('th', { scope: 'col' }, words)),
    figures.map(([words]) => el('th', { scope: 'col', class: 'n' }, words)),
    last && el('td'),
  ];
  const line = ({ run, row }) => [
    several && el('th', { scope: 'row' }, text(run.name)),
    el(several ? 'td' : 'th', several ? {} : { scope: 'row' }, text(row.dataset)),
    el('td', {}, text(modelOf(row))),
    figures.map(([, value]) => el('td', { class: 'n' }, value(row))),
    last && el('td', {}, last(run, row)),
  ];
  const body = rows.map((one) => el('tr', {}, line(one)));
  return scroller(
    `Table: ${title}`,
    {},
    el(
      'table',
      { 'data-testid': id, 'aria-label': title },
      el('thead', {}, el('tr', {}, head)),
      el('tbody', {}, body),
    ),
  );
}

function episodes(run, row) {
  const address = href('episodes', { run: run.id, source: `eval/${row.episodes ?? `${row.stage}_${row.dataset}`}` });
  return el('a', { href: address }, 'episodes', el('span', { class: 'sr' }, ` of ${modelOf(row)} on ${row.dataset}`));
}

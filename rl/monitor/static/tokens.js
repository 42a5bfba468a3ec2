// Tokens of one round, tinted by how likely the model held them, with the figures beside.

import { el, put, scroller, text } from './dom.js';
import { num, percent, whole } from './format.js';

// Least probability of each tint. Tints differ in underline too, not in colour alone.
const BINS = [
  [0.9, 'p0', 'above 90 %'],
  [0.5, 'p1', '50 to 90 %'],
  [0.1, 'p2', '10 to 50 %'],
  [0.01, 'p3', '1 to 10 %'],
  [0, 'p4', 'below 1 %'],
];
const SHOWN = 3000; // tokens at once
const ROWS = 200;

const chance = (logprob) => (typeof logprob === 'number' ? Math.exp(logprob) : null);

function bin(logprob) {
  const p = chance(logprob);
  return p === null ? '' : BINS.find(([least]) => p >= least)[1];
}

/** What a token's text looks like: a line break and an empty token can't be seen else. */
const visible = (value) => (value === '' ? '∅' : value.replaceAll('\n', '↵\n').replaceAll('\t', '⇥\t'));

/** `tokens`: [{text, logprob}]; `name` says which round. */
export function tokens(list, name) {
  if (!list.length) return el('p', { class: 'muted' }, 'No tokens.');
  const legend = el(
    'ul',
    { class: 'token-legend', 'aria-label': 'Probability of a token' },
    BINS.map(([, kind, words]) => el('li', {}, el('span', { class: `token ${kind}` }, 'token'), ` ${words}`)),
  );
  const readout = el('p', { class: 'token-readout muted', 'aria-hidden': 'true' }, 'Point at a token for its figures.');
  const run = el('div', { class: 'model token-run', dir: 'auto' });
  const more = el('button', { type: 'button', onclick: () => add() }, '');
  let shown = 0;

  function add() {
    const next = list.slice(shown, shown + SHOWN);
    run.append(
      ...next.map((token, i) =>
        el('span', { class: `token ${bin(token.logprob)}`, 'data-at': shown + i }, text(visible(token.text))),
      ),
    );
    shown += next.length;
    more.textContent = `Show ${whole(Math.min(SHOWN, list.length - shown))} more of ${whole(list.length)} tokens`;
    more.hidden = shown >= list.length;
  }

  run.addEventListener('pointerover', (event) => {
    const at = event.target.closest?.('[data-at]')?.dataset.at;
    if (at === undefined) return;
    const token = list[at];
    put(
      readout,
      `Token ${Number(at) + 1}: `,
      el('code', {}, text(visible(token.text))),
      ` logprob ${num(token.logprob)}, probability ${percent(chance(token.logprob), 2)}`,
    );
  });
  add();
  return el(
    'div',
    { class: 'tokens', 'data-testid': 'tokens' },
    legend,
    readout,
    scroller(`Tokens of ${name}`, { class: 'tall' }, run, more),
    figures(list, name),
  );
}

/** The figures as a table: in order, or the least likely first. */
function figures(list, name) {
  const box = el('div');
  const rare = el('input', { type: 'checkbox', checked: true, onchange: () => fill() });
  const details = el(
    'details',
    { class: 'token-figures', ontoggle: () => details.open && fill() },
    el('summary', {}, 'Figures of the tokens'),
    el('label', { class: 'tick' }, rare, 'least likely first'),
    box,
  );

  function fill() {
    const rows = list.map((token, at) => ({ ...token, at }));
    if (rare.checked) rows.sort((a, b) => (a.logprob ?? 1) - (b.logprob ?? 1));
    const head = el(
      'tr',
      {},
      [
        ['token', 'n'],
        ['text', ''],
        ['logprob', 'n'],
        ['probability', 'n'],
      ].map(([h, c]) => el('th', { scope: 'col', class: c }, h)),
    );
    const body = rows
      .slice(0, ROWS)
      .map((row) =>
        el(
          'tr',
          {},
          el('th', { scope: 'row', class: 'n' }, String(row.at + 1)),
          el('td', {}, el('code', { dir: 'auto' }, text(visible(row.text)))),
          el('td', { class: 'n' }, num(row.logprob)),
          el('td', { class: 'n' }, percent(chance(row.logprob), 2)),
        ),
      );
    put(
      box,
      scroller(
        `Figures of the tokens of ${name}`,
        { class: 'tall' },
        el('table', {}, el('thead', {}, head), el('tbody', {}, body)),
      ),
      list.length > ROWS && el('p', { class: 'note' }, `${ROWS} of ${whole(list.length)} tokens.`),
    );
  }
  return details;
}

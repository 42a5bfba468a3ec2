// Tokens of one round, tinted by their probability, with a table of the figures.

import { button, el, fold, put, scroller, text } from './dom.js';
import { num, percent, whole } from './format.js';
import { table } from './table.js';

// Minimum probability of each tint. Tints also differ in underline, not only in color.
const BINS = [
  [0.9, 'p0', 'above 90 %'],
  [0.5, 'p1', '50 to 90 %'],
  [0.1, 'p2', '10 to 50 %'],
  [0.01, 'p3', '1 to 10 %'],
  [0, 'p4', 'below 1 %'],
];
const SHOWN = 3000; // tokens rendered at once
const ROWS = 200;

const chance = ({ logprob }) => (typeof logprob === 'number' ? Math.exp(logprob) : null);

function bin(token) {
  const p = chance(token);
  return p === null ? '' : BINS.find(([least]) => p >= least)[1];
}

/** Returns a token's text with visible signs for line breaks, tabs and the empty token. */
const visible = (value) => (value === '' ? '∅' : value.replaceAll('\n', '↵\n').replaceAll('\t', '⇥\t'));

/** `tokens`: [{text, logprob}]; `name`: of the round. */
export function tokens(list, name) {
  if (!list.length) return el('p', { class: 'muted' }, 'No tokens.');
  const tint = ([, kind, words]) => el('li', {}, el('span', { class: `token ${kind}` }, 'token'), ` ${words}`);
  const legend = el('ul', { class: 'token-legend', 'aria-label': 'Probability of a token' }, BINS.map(tint));
  const readout = el('p', { class: 'token-readout muted', 'aria-hidden': 'true' }, 'Point at a token for its figures.');
  const run = el('div', { class: 'model token-run', dir: 'auto' });
  const more = button('', () => add());
  let shown = 0;

  function add() {
    const next = list.slice(shown, shown + SHOWN);
    const token = (one, i) => el('span', { class: `token ${bin(one)}`, 'data-at': shown + i }, text(visible(one.text)));
    run.append(...next.map(token));
    shown += next.length;
    more.textContent = `Show ${whole(Math.min(SHOWN, list.length - shown))} more of ${whole(list.length)} tokens`;
    more.hidden = shown >= list.length;
  }

  run.addEventListener('pointerover', (event) => {
    const at = event.target.closest?.('[data-at]')?.dataset.at;
    if (at === undefined) return;
    const words = ` logprob ${num(list[at].logprob)}, probability ${percent(chance(list[at]), 2)}`;
    put(readout, `Token ${Number(at) + 1}: `, el('code', {}, text(visible(list[at].text))), words);
  });
  add();
  const all = scroller(`Tokens of ${name}`, { class: 'tall' }, run, more);
  return el('div', { class: 'tokens', 'data-testid': 'tokens' }, legend, readout, all, figures(list, name));
}

/** The figures as a table, in order or least likely first. */
function figures(list, name) {
  const box = el('div');
  const rare = el('input', { type: 'checkbox', checked: true, onchange: () => show() });
  const tick = el('label', { class: 'tick' }, rare, 'least likely first');
  const columns = [
    { words: 'token', class: 'n', first: true, cell: (one) => String(one.at + 1) },
    { words: 'text', cell: (one) => el('code', { dir: 'auto' }, text(visible(one.text))) },
    { words: 'logprob', class: 'n', cell: (one) => num(one.logprob) },
    { words: 'probability', class: 'n', cell: (one) => percent(chance(one), 2) },
  ];

  function show() {
    const rows = list.map((token, at) => ({ ...token, at }));
    if (rare.checked) rows.sort((a, b) => (a.logprob ?? 1) - (b.logprob ?? 1));
    const note = list.length > ROWS && el('p', { class: 'note' }, `${ROWS} of ${whole(list.length)} tokens.`);
    const made = table({}, columns, rows.slice(0, ROWS));
    put(box, scroller(`Figures of the tokens of ${name}`, { class: 'tall' }, made), note);
  }
  return fold('Figures of the tokens', show, { class: 'token-figures' }, tick, box);
}

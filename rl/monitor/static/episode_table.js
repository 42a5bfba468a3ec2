// The table of episodes and its messages.

import { el, text, verdict } from './dom.js';
import { count, num, signed, stopWords, whole } from './format.js';
import { href } from './state.js';

const figure = (words, value, sort) => ({ words, sort, class: 'n', cell: value });

/** Columns; `back`: the route of the table, to which a group's page links back. */
export const columns = (back) => [
  figure('Step', (one) => [whole(one.step), one.source !== 'train' && el('span', { class: 'muted source' }, text(one.source))], 'step'),
  figure('Ep.', (one) => String(one.episode)),
  { words: 'Question', cell: (one) => question(one, back) },
  { words: 'Gold', cell: (one) => el('td', { class: 'gold', dir: 'auto' }, text(one.answer ?? '–')) },
  { words: 'Result', cell: (one) => verdict(one.correct) },
  { words: 'Stop reason', cell: (one) => el('span', { class: `stop ${one.stop_reason}` }, stopWords(one.stop_reason)) },
  figure('Rounds', (one) => whole(one.rounds), 'rounds'),
  figure('Tokens', (one) => whole(one.tokens), 'tokens'),
  figure('Peak', (one) => whole(one.peak)),
  figure('Reward', (one) => num(one.reward), 'reward'),
  figure('Advantage', (one) => signed(one.advantage), 'advantage'),
];

function question({ run, source, step, group, episode, ...one }, back) {
  const address = href('group', { run, source, step, group, episode, back });
  return el(
    'td',
    { class: 'question-cell' },
    el('a', { class: 'row-link', href: address, dir: 'auto' }, text(one.question || '(no text)')),
    one.snippet && el('p', { class: 'snippet', dir: 'auto', 'data-testid': 'snippet' }, text(one.snippet)),
    one.error && el('p', { class: 'bad-text', dir: 'auto' }, text(one.error)),
  );
}

/** Indexing progress; empty once all files are indexed. */
export const indexing = (state) =>
  state && state.files < state.of ? `indexing ${whole(state.files)} of ${count(state.of, 'file')}` : '';

/** Files that can't be read, and why. */
export function faultList(list) {
  if (!list.length) return [];
  return el('ul', { class: 'notice warn faults' }, list.map((one) => el('li', { dir: 'auto' }, text(`${one.file}: ${one.reason}`))));
}

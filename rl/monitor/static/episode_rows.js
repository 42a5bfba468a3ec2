// Rows of the episodes table, and what stands around them.

import { el, text } from './dom.js';
import { count, num, signed, stopWords, whole } from './format.js';
import { href } from './state.js';
import { verdict } from './verdict.js';

export const COLUMNS = [
  { words: 'Step', sort: 'step', class: 'n' },
  { words: 'Ep.', class: 'n' },
  { words: 'Question' },
  { words: 'Gold' },
  { words: 'Result' },
  { words: 'Ended as' },
  { words: 'Rounds', sort: 'rounds', class: 'n' },
  { words: 'Tokens', sort: 'tokens', class: 'n' },
  { words: 'Peak', class: 'n' },
  { words: 'Reward', sort: 'reward', class: 'n' },
  { words: 'Advantage', sort: 'advantage', class: 'n' },
];

/** One row; `back`: the route of the table, which the group's page leads back to. */
export function row(one, back) {
  const address = href('group', {
    run: one.run,
    source: one.source,
    step: one.step,
    group: one.group,
    episode: one.episode,
    back,
  });
  const question = el('a', { class: 'row-link', href: address, dir: 'auto' }, text(one.question || '(no text)'));
  return el(
    'tr',
    { 'data-testid': 'row' },
    el(
      'td',
      { class: 'n' },
      whole(one.step),
      one.source !== 'train' && el('span', { class: 'muted source' }, text(one.source)),
    ),
    el('td', { class: 'n' }, String(one.episode)),
    el(
      'td',
      { class: 'question-cell' },
      question,
      one.snippet && el('p', { class: 'snippet', dir: 'auto', 'data-testid': 'snippet' }, text(one.snippet)),
      one.error && el('p', { class: 'bad-text', dir: 'auto' }, text(one.error)),
    ),
    el('td', { class: 'gold', dir: 'auto' }, text(one.answer ?? '–')),
    el('td', {}, verdict(one.correct)),
    el('td', {}, el('span', { class: `stop ${one.stop_reason}` }, stopWords(one.stop_reason))),
    [whole(one.rounds), whole(one.tokens), whole(one.peak), num(one.reward), signed(one.advantage)].map((v) =>
      el('td', { class: 'n' }, v),
    ),
  );
}

/** How far the files are taken in; nothing once all are. */
export const indexing = (state) =>
  state && state.files < state.of ? `indexing ${whole(state.files)} of ${count(state.of, 'file')}` : '';

/** Files that can't be read, and why. */
export function faultList(list) {
  if (!list.length) return [];
  return el(
    'ul',
    { class: 'notice warn faults' },
    list.map((one) => el('li', { dir: 'auto' }, text(`${one.file}: ${one.reason}`))),
  );
}

// What a comparison found, as the page shows it.

import { el, text } from './dom.js';
import { count, num, percent, whole } from './format.js';
import { href } from './state.js';
import { head } from './table.js';

/** Sign of each kind of question beside its word. */
export const SIGNS = { solved: '▲', lost: '▼', both: '✓', neither: '✗' };

const FEW = 10; // shared questions, below which an interval from their spread says too much
const OPEN = /(-| to )999999999$/; // the page's own way to say: to the last step

/** Both sides and the difference between them. */
export function summary({ a, b, shared, difference }) {
  const side = (name, one) =>
    el(
      'div',
      { class: 'card side-summary' },
      el('h2', {}, name, ' ', el('span', { class: 'muted', dir: 'auto' }, text(one.label.replace(OPEN, ' and later')))),
      el('p', { class: 'big' }, percent(one.accuracy)),
      el(
        'p',
        { class: 'muted' },
        `${count(one.questions, 'question')}, ${count(one.episodes, 'episode')}, ${num(one.tokens)} tokens an episode`,
      ),
    );
  const points = (v) =>
    typeof v === 'number' ? `${v > 0 ? '+' : v < 0 ? '−' : ''}${Math.abs(100 * v).toFixed(1)}` : '–';
  const questionsOfBoth = count(shared, 'shared question');
  const known = typeof difference?.mean === 'number';
  const sure = known && difference.low !== null && (difference.low > 0 || difference.high < 0);
  const verdict = !known ? '' : shared < FEW ? 'too few to say more' : !sure ? 'could be chance' : difference.mean > 0 ? 'B is better' : 'A is better';
  return el(
    'div',
    { class: 'compare-summary', 'data-testid': 'compare-summary' },
    side('A', a),
    el(
      'div',
      { class: 'card side-summary' },
      el('h2', {}, 'B − A'),
      el('p', { class: 'big' }, known ? `${points(difference.mean)} points` : '–'),
      el(
        'p',
        { class: 'muted' },
        known
          ? `95 % interval ${points(difference.low)} to ${points(difference.high)}, over ${questionsOfBoth}: ${verdict}`
          : questionsOfBoth,
      ),
    ),
    side('B', b),
  );
}

/** The questions; `back` leads here again. */
export function questions(answer, back) {
  const columns = [
    { words: 'Kind' },
    { words: 'Question' },
    { words: 'Gold' },
    { words: 'Right in A', class: 'n' },
    { words: 'Right in B', class: 'n' },
    { words: 'Tokens A', class: 'n' },
    { words: 'Tokens B', class: 'n' },
  ];
  const link = (one, name, question) =>
    el(
      'a',
      {
        href: href('group', { run: one.run, source: one.source, step: one.step, group: one.group, back }),
        title: `group ${one.group} of step ${one.step}`,
      },
      one.graded ? `${whole(one.right)} of ${whole(one.episodes ?? one.graded)}` : 'unjudged',
      el('span', { class: 'sr' }, ` in ${name}: ${question.slice(0, 60)}`),
    );
  const row = (one) =>
    el(
      'tr',
      { 'data-testid': 'compare-row', 'data-kind-row': one.kind },
      el(
        'td',
        {},
        el(
          'span',
          { class: `kind-badge ${one.kind}` },
          el('span', { 'aria-hidden': 'true' }, SIGNS[one.kind] ?? ''),
          ` ${one.kind}`,
        ),
      ),
      el('th', { scope: 'row', class: 'question-cell', dir: 'auto' }, text(one.question)),
      el('td', { class: 'gold', dir: 'auto' }, text(one.answer ?? '–')),
      el('td', { class: 'n' }, link(one.a, 'A', one.question)),
      el('td', { class: 'n' }, link(one.b, 'B', one.question)),
      el('td', { class: 'n' }, num(one.a.tokens)),
      el('td', { class: 'n' }, num(one.b.tokens)),
    );
  return el(
    'table',
    { 'data-testid': 'compare-table', 'aria-label': 'Questions of both' },
    head(columns, '', null),
    el('tbody', {}, answer.rows.map(row)),
  );
}

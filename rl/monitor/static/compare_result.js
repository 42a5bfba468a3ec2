// The result of a comparison.

import { el, sign, text, unseen } from './dom.js';
import { count, num, percent, whole } from './format.js';
import { href } from './state.js';
import { table } from './table.js';

/** Sign of each kind of question, shown next to its word. */
export const SIGNS = { solved: '▲', lost: '▼', both: '✓', neither: '✗' };

const FEW = 10; // shared questions; with fewer, an interval from their spread is not reliable
const OPEN = /(-| to )999999999$/; // the page's own notation for "to the last step"

/** Renders both sides and the difference between them. */
export function summary({ a, b, shared, difference }) {
  const card = (title, figure, words) =>
    el('div', { class: 'card side-summary' }, el('h2', {}, title), el('p', { class: 'big' }, figure), el('p', { class: 'muted' }, words));
  const side = (name, one) => {
    const label = el('span', { class: 'muted', dir: 'auto' }, text(one.label.replace(OPEN, ' and later')));
    const words = `${count(one.questions, 'question')}, ${count(one.episodes, 'episode')}, ${num(one.tokens)} tokens per episode`;
    return card([name, ' ', label], percent(one.accuracy), words);
  };
  return el('div', { class: 'compare-summary', 'data-testid': 'compare-summary' }, side('A', a), between(card, shared, difference), side('B', b));
}

function between(card, shared, { mean, low, high }) {
  const over = count(shared, 'shared question');
  if (typeof mean !== 'number') return card('B − A', '–', over);
  const points = (v) => `${v > 0 ? '+' : v < 0 ? '−' : ''}${Math.abs(100 * v).toFixed(1)}`;
  const sure = low > 0 || high < 0;
  const better = mean > 0 ? 'B is better' : 'A is better';
  const verdict = shared < FEW ? 'too few questions to tell' : sure ? better : 'could be chance';
  return card('B − A', `${points(mean)} points`, `95 % interval ${points(low)} to ${points(high)}, over ${over}: ${verdict}`);
}

/** Renders the questions; `back` is the route back here. */
export function questions(answer, back) {
  const link = (one, name, question) => {
    const address = href('group', { run: one.run, source: one.source, step: one.step, group: one.group, back });
    const words = one.graded ? `${whole(one.right)} of ${whole(one.episodes)}` : 'unjudged';
    const title = `group ${one.group} of step ${one.step}`;
    return el('a', { href: address, title }, words, unseen(` in ${name}: ${question.slice(0, 60)}`));
  };
  const kind = ({ kind: name }) => el('span', { class: `kind-badge ${name}` }, sign(SIGNS[name]), ` ${name}`);
  const columns = [
    { words: 'Kind', cell: kind },
    { words: 'Question', cell: (one) => el('th', { scope: 'row', class: 'question-cell', dir: 'auto' }, text(one.question)) },
    { words: 'Gold', cell: (one) => el('td', { class: 'gold', dir: 'auto' }, text(one.answer ?? '–')) },
    { words: 'Right in A', class: 'n', cell: (one) => link(one.a, 'A', one.question) },
    { words: 'Right in B', class: 'n', cell: (one) => link(one.b, 'B', one.question) },
    { words: 'Tokens A', class: 'n', cell: (one) => num(one.a.tokens) },
    { words: 'Tokens B', class: 'n', cell: (one) => num(one.b.tokens) },
  ];
  const attrs = { 'data-testid': 'compare-table', 'aria-label': 'Shared questions' };
  const row = (one) => ({ 'data-testid': 'compare-row', 'data-kind-row': one.kind });
  return table(attrs, columns, answer.rows, { row });
}

// Tables from columns, with headers that sort, and their pages.

import { button, el, put, sign } from './dom.js';
import { whole } from './format.js';

const SIGNS = { ascending: '▲', descending: '▼' };

/**
 * A table of `list`. `columns`: [{ words, class, first, sort, cell(one) }]; `first`: its cells are the row headers;
 * `sort`: the API's key if the table can be sorted by it. `row(one)`: attributes of a row.
 * `order`: { now, choose }: "key" or "-key", and the function that changes it.
 */
export function table(attrs, columns, list, { row, order } = {}) {
  const cell = (one, { cell: make, class: kind, first }) => {
    const made = make(one);
    if (made instanceof HTMLTableCellElement) return made;
    return first ? el('th', { scope: 'row', class: kind }, made) : el('td', { class: kind }, made);
  };
  const line = (one) => el('tr', row?.(one), columns.map((column) => cell(one, column)));
  const head = el('thead', {}, el('tr', {}, columns.map((column) => title(column, order))));
  return el('table', attrs, head, el('tbody', {}, list.map(line)));
}

function title({ words, class: kind, sort }, order) {
  if (!words) return el('td');
  if (!sort || !order) return el('th', { scope: 'col', class: kind }, words);
  const state = order.now === sort ? 'ascending' : order.now === `-${sort}` ? 'descending' : null;
  const next = state === 'descending' ? sort : `-${sort}`;
  const mark = el('span', { class: 'sort-sign', 'aria-hidden': 'true' }, SIGNS[state]);
  const turn = button([words, mark], () => order.choose(next), { class: 'sort', 'data-sort': sort });
  return el('th', { scope: 'col', class: kind, 'aria-sort': state }, turn);
}

/** Paging buttons of a list, which call `go(offset)`. */
export function pages(box, { offset, limit, total, shown }, go) {
  const more = total === null ? shown === limit : offset + shown < total;
  const last = total === null ? null : Math.max(0, Math.floor((total - 1) / limit) * limit);
  const to = (words, place, disabled, id) => button(words, () => go(place), { disabled, 'data-testid': id });
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.testid : null;
  const of = total === null ? '' : ` of ${whole(total)}`;
  put(
    box,
    to('First', 0, offset === 0, 'first-page'),
    to('Previous', Math.max(0, offset - limit), offset === 0, 'previous-page'),
    el('span', { class: 'muted' }, shown ? `${whole(offset + 1)}–${whole(offset + shown)}${of}` : ''),
    to('Next', offset + limit, !more, 'next-page'),
    last !== null && to('Last', last, !more, 'last-page'),
  );
  if (focused) [...box.querySelectorAll('button:not(:disabled)')].find((b) => b.dataset.testid === focused)?.focus();
}

/** Arrow keys move between the links of a table's rows; Home and End go to the first and the last. */
export function arrows(event) {
  const links = [...event.currentTarget.querySelectorAll('tbody a.row-link')];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return;
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 };
  const target = links[moves[event.key]];
  if (!target) return;
  target.focus();
  event.preventDefault();
}

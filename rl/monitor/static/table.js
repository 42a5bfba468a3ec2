// Tables with headers that sort, and their pages.

import { el, put } from './dom.js';
import { whole } from './format.js';

const SIGNS = { ascending: '▲', descending: '▼' };

/**
 * A `<thead>` row. `columns`: [{ words, class, sort }]; `sort` names the API's key, if there is one.
 * `now`: the order, "key" or "-key". `choose(order)`: null where the order can't be chosen now.
 */
export function head(columns, now, choose) {
  const cell = ({ words, class: kind, sort }) => {
    if (!sort || !choose) return el('th', { scope: 'col', class: kind }, words);
    const state = now === sort ? 'ascending' : now === `-${sort}` ? 'descending' : 'none';
    const next = state === 'descending' ? sort : `-${sort}`;
    const button = el(
      'button',
      { type: 'button', class: 'sort', 'data-sort': sort, onclick: () => choose(next) },
      words,
      el('span', { class: 'sort-sign', 'aria-hidden': 'true' }, SIGNS[state] ?? ''),
    );
    return el('th', { scope: 'col', class: kind, 'aria-sort': state === 'none' ? null : state }, button);
  };
  return el('thead', {}, el('tr', {}, columns.map(cell)));
}

/** Buttons for the pages of a list. `go(offset)`. */
export function pages(box, { offset, limit, total, shown }, go) {
  const more = total === null ? shown === limit : offset + shown < total;
  const last = total === null ? null : Math.max(0, Math.floor((total - 1) / limit) * limit);
  const button = (words, to, off, id) =>
    el('button', { type: 'button', disabled: off, 'data-testid': id, onclick: () => go(to) }, words);
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.testid : null;
  put(
    box,
    button('First', 0, offset === 0, 'first-page'),
    button('Previous', Math.max(0, offset - limit), offset === 0, 'previous-page'),
    el(
      'span',
      { class: 'muted' },
      shown ? `${whole(offset + 1)}–${whole(offset + shown)}${total === null ? '' : ` of ${whole(total)}`}` : '',
    ),
    button('Next', offset + limit, !more, 'next-page'),
    last !== null && button('Last', last, !more, 'last-page'),
  );
  if (focused) [...box.querySelectorAll('button:not(:disabled)')].find((b) => b.dataset.testid === focused)?.focus();
}

/** Arrow keys go from link to link of a table's rows; Home and End to the first and the last. */
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

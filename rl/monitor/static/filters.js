// The filters of the episodes table: labelled inputs that write into the view.

import { cluster, el, field, keepFocus, put, select, text } from './dom.js';
import { stopWords, whole } from './format.js';
import { debounce } from './poll.js';

export const FILTERS = [
  'source',
  'step_from',
  'step_to',
  'question',
  'qid',
  'group',
  'correct',
  'stop',
  'rounds_min',
  'rounds_max',
  'tokens_min',
  'tokens_max',
  'text',
];
const WAIT = 250; // ms after the last key
const RESULTS = [
  ['', 'any'],
  ['right', 'right'],
  ['wrong', 'wrong'],
  ['unknown', 'unjudged'],
];

/** Builds the form in `box`. `changed(name)` is called when the view has changed. */
export function filters(box, view, changed) {
  const later = debounce((name) => changed(name), WAIT);
  const write = (name, value, now) => {
    view.set({ [name]: value, offset: null }, now); // the back button undoes a choice, not each key
    if (now) changed(name);
    else later(name);
  };
  const typed = (name, words, attrs) => {
    const heard = (event) => write(name, event.target.value.trim() === '' ? '' : event.target.value);
    const input = el('input', {
      id: `filter-${name}`,
      name,
      value: view.get(name),
      autocomplete: 'off',
      spellcheck: 'false',
      oninput: heard,
      ...attrs,
    });
    return words ? field(words, input, { class: `field ${attrs.type}` }) : input;
  };
  const pair = (words, low, high) =>
    cluster(
      words,
      { class: 'pair' },
      [
        ['from', low],
        ['to', high],
      ].map(([w, name]) =>
        typed(name, null, {
          type: 'number',
          min: 0,
          step: 1,
          placeholder: w,
          inputmode: 'numeric',
          'aria-label': `${words} ${w}`,
        }),
      ),
    );
  const runs = el('span', { class: 'field' });
  const sources = el('span', { class: 'field' });
  const stops = el('div', { class: 'field' });
  const chips = el('div', { class: 'chips' });

  put(
    box,
    el(
      'form',
      {
        class: 'filters',
        role: 'search',
        'aria-label': 'Episodes',
        'data-testid': 'filters',
        onsubmit: (event) => {
          event.preventDefault();
          changed('text');
        },
      },
      runs,
      sources,
      pair('Step', 'step_from', 'step_to'),
      field(
        'Result',
        select(RESULTS, view.get('correct'), (v) => write('correct', v, true), {
          id: 'filter-correct',
          name: 'correct',
        }),
      ),
      pair('Rounds', 'rounds_min', 'rounds_max'),
      pair('Tokens', 'tokens_min', 'tokens_max'),
      typed('question', 'Question contains', { type: 'search' }),
      typed('text', 'Output contains', { type: 'search', placeholder: 'thinking, summary, conclusion' }),
      stops,
      el(
        'span',
        { class: 'filter-end' },
        chips,
        el('button', { type: 'button', id: 'clear-filters', onclick: clear }, 'Clear filters'),
      ),
    ),
  );

  function clear() {
    view.set(
      { ...Object.fromEntries(FILTERS.filter((name) => name !== 'source').map((name) => [name, null])), offset: null },
      true,
    );
    for (const input of box.querySelectorAll('input[name], #filter-correct')) {
      if (input.type === 'checkbox') input.checked = false;
      else if (FILTERS.includes(input.name)) input.value = '';
    }
    showChips();
    changed('clear');
  }

  /** Filters that a link set and that have no input: each can be taken off. */
  function showChips() {
    const chip = (name, words) =>
      view.get(name) &&
      el(
        'span',
        { class: 'chip' },
        words,
        ' ',
        el('code', { dir: 'auto' }, text(view.get(name))),
        el(
          'button',
          {
            type: 'button',
            'aria-label': `Take off the filter ${words}`,
            onclick: () => {
              view.set({ [name]: null, offset: null }, true);
              showChips();
              changed(name);
            },
          },
          '×',
        ),
      );
    put(chips, chip('group', 'group'), chip('qid', 'question'));
  }
  showChips();

  function showRuns(list, chosen) {
    put(
      runs,
      field(
        'Run',
        select(
          list.map((run) => [run.id, run.name]),
          chosen,
          (id) => write('run', id, true),
          { id: 'filter-run', name: 'run' },
        ),
      ),
    );
  }

  function showSources(list) {
    const asked = view.get('source');
    const options = [['', 'all'], ...list.map((one) => [one.source, `${one.source} (${whole(one.episodes)})`])];
    if (asked && !list.some((one) => one.source === asked)) options.push([asked, `${asked} (none)`]);
    const menu = select(options, asked, (v) => write('source', v, true), { id: 'filter-source', name: 'source' });
    if (!sources.contains(document.activeElement)) put(sources, field('Source', menu)); // it may be open
    showStops(list.filter((one) => !asked || one.source === asked));
  }

  function showStops(list) {
    const counts = new Map();
    for (const one of list)
      for (const [reason, n] of Object.entries(one.stops ?? {})) counts.set(reason, (counts.get(reason) ?? 0) + n);
    for (const reason of view.list('stop')) if (!counts.has(reason)) counts.set(reason, 0);
    const ticked = () => [...stops.querySelectorAll('input:checked')].map((input) => input.value);
    const tick = ([reason, n]) =>
      el(
        'label',
        { class: 'tick' },
        el('input', {
          type: 'checkbox',
          value: reason,
          name: 'stop',
          checked: view.list('stop').includes(reason),
          onchange: () => write('stop', ticked(), true),
        }),
        stopWords(reason),
        el('span', { class: 'muted' }, ` ${whole(n)}`),
      );
    const ticks = [...counts].map(tick);
    keepFocus(stops, () => put(stops, ticks.length > 0 && cluster('Ended as', { 'data-testid': 'stops' }, ticks)));
  }

  return { showRuns, showSources };
}

// The filters of the episodes table: labeled inputs that write to the view.

import { button, cluster, el, field, keepFocus, put, select, text } from './dom.js';
import { stopWords, whole } from './format.js';
import { debounce } from './poll.js';

const BOUNDS = ['step_from', 'step_to', 'rounds_min', 'rounds_max', 'tokens_min', 'tokens_max'];
export const FILTERS = ['source', 'question', 'qid', 'group', 'correct', 'stop', 'text', ...BOUNDS];
const WAIT = 250; // ms after the last keystroke
const RESULTS = [
  ['', 'any'],
  ['right', 'right'],
  ['wrong', 'wrong'],
  ['unknown', 'unjudged'],
];

/** Builds the form in `box`. `changed(name)` is called when the view has changed. */
export function filters(box, view, changed) {
  const later = debounce(changed, WAIT);
  const write = (name, value, now) => {
    view.set({ [name]: value, offset: null }, now); // the back button undoes a choice, not each keystroke
    if (now) changed(name);
    else later(name);
  };
  const typed = (name, attrs) => {
    const heard = (event) => write(name, event.target.value.trim() === '' ? '' : event.target.value);
    const usual = { id: `filter-${name}`, name, value: view.get(name), autocomplete: 'off', spellcheck: 'false' };
    return el('input', { ...usual, oninput: heard, ...attrs });
  };
  const pair = (words, ...names) => {
    const end = (name, way) =>
      typed(name, { type: 'number', min: 0, step: 1, placeholder: way, inputmode: 'numeric', 'aria-label': `${words} ${way}` });
    return cluster(words, { class: 'pair' }, end(names[0], 'from'), end(names[1], 'to'));
  };
  const search = (name, words, attrs) => field(words, typed(name, { type: 'search', ...attrs }), { class: 'field search' });
  const menu = (name, words, options, value) =>
    field(words, select(options, value, (v) => write(name, v, true), { id: `filter-${name}`, name }));
  const runs = el('span', { class: 'field' });
  const sources = el('span', { class: 'field' });
  const stops = el('div', { class: 'field' });
  const chips = el('div', { class: 'chips' });
  const submit = (event) => {
    event.preventDefault();
    changed('text');
  };
  const attrs = { class: 'filters', role: 'search', 'aria-label': 'Episodes', 'data-testid': 'filters', onsubmit: submit };
  put(
    box,
    el(
      'form',
      attrs,
      runs,
      sources,
      pair('Step', 'step_from', 'step_to'),
      menu('correct', 'Result', RESULTS, view.get('correct')),
      pair('Rounds', 'rounds_min', 'rounds_max'),
      pair('Tokens', 'tokens_min', 'tokens_max'),
      search('question', 'Question contains'),
      search('text', 'Output contains', { placeholder: 'thinking, summary, conclusion' }),
      stops,
      el('span', { class: 'filter-end' }, chips, button('Clear filters', clear, { id: 'clear-filters' })),
    ),
  );

  function clear() {
    const cleared = FILTERS.filter((name) => name !== 'source');
    view.set({ ...Object.fromEntries(cleared.map((name) => [name, null])), offset: null }, true);
    for (const input of box.querySelectorAll('input[name], #filter-correct')) {
      if (input.type === 'checkbox') input.checked = false;
      else if (FILTERS.includes(input.name)) input.value = '';
    }
    showChips();
    changed('clear');
  }

  /** Shows filters that a link set and that have no input, each with a way to remove it. */
  function showChips() {
    const chip = (name, words) => {
      const off = () => {
        view.set({ [name]: null, offset: null }, true);
        showChips();
        changed(name);
      };
      const value = el('code', { dir: 'auto' }, text(view.get(name)));
      const close = button('×', off, { 'aria-label': `Remove the filter ${words}` });
      return view.get(name) && el('span', { class: 'chip' }, words, ' ', value, close);
    };
    put(chips, chip('group', 'group'), chip('qid', 'question'));
  }
  showChips();

  function showRuns(list, chosen) {
    put(runs, menu('run', 'Run', list.map((run) => [run.id, run.name]), chosen));
  }

  function showSources(list) {
    const asked = view.get('source');
    const options = [['', 'all'], ...list.map((one) => [one.source, `${one.source} (${whole(one.episodes)})`])];
    if (asked && !list.some((one) => one.source === asked)) options.push([asked, `${asked} (none)`]);
    if (!sources.contains(document.activeElement)) put(sources, menu('source', 'Source', options, asked)); // not while open
    showStops(list.filter((one) => !asked || one.source === asked));
  }

  function showStops(list) {
    const counts = new Map();
    for (const one of list)
      for (const [reason, n] of Object.entries(one.stops)) counts.set(reason, (counts.get(reason) ?? 0) + n);
    for (const reason of view.list('stop')) if (!counts.has(reason)) counts.set(reason, 0);
    const ticked = () => [...stops.querySelectorAll('input:checked')].map((input) => input.value);
    const tick = ([reason, n]) => {
      const checked = view.list('stop').includes(reason);
      const onchange = () => write('stop', ticked(), true);
      const input = el('input', { type: 'checkbox', value: reason, name: 'stop', checked, onchange });
      return el('label', { class: 'tick' }, input, stopWords(reason), el('span', { class: 'muted' }, ` ${whole(n)}`));
    };
    const ticks = [...counts].map(tick);
    keepFocus(stops, () => put(stops, ticks.length > 0 && cluster('Stop reason', { 'data-testid': 'stops' }, ticks)));
  }

  return { showRuns, showSources };
}

// Controls of the overview's charts. Each writes to the view, and so to the URL.

import { button, cluster, el, put, putIfNew, reducedMotion } from './dom.js';
import { debounce } from './poll.js';

const WAIT = 250; // ms after the last keystroke
export const STAGES = { sft: 'SFT', rl: 'RL' };

/**
 * `changed(what)`: 'stage', 'look' (redraw) or 'range' (request again). `pins()`: defaults that the URL omits and a
 * copied link includes. Returns { node, showStages, range }.
 */
export function controls(view, changed, pins) {
  const stages = el('div', { class: 'segments', role: 'group', 'aria-label': 'Stage', 'data-testid': 'stages' });
  const { smoothing, amount } = smoothingOf(view, changed);
  const turnLog = () => {
    view.set({ log: log.checked ? '1' : null });
    changed('look');
  };
  const log = el('input', { type: 'checkbox', id: 'log', checked: view.get('log') === '1', onchange: turnLog });
  const axis = ['step', 'time'].map((x) => {
    const checked = (view.get('x') || 'step') === x;
    const input = el('input', { type: 'radio', name: 'x', value: x, checked, onchange: () => turn(x) });
    return el('label', { class: 'segment' }, input, x);
  });
  const ask = debounce(() => {
    view.set({ from: from.value, to: to.value });
    follow();
    changed('range');
  }, WAIT);
  const end = (id) =>
    el('input', { type: 'number', id, step: 'any', placeholder: id, value: view.get(id), oninput: ask, 'aria-describedby': 'range-fault' });
  const [from, to] = [end('from'), end('to')];
  const reset = button('Whole range', () => range(null, null), { id: 'reset-range' });
  const words = el('span');
  const wrong = el('span', { class: 'bad-text', role: 'status', id: 'range-fault' });

  function turn(x) {
    view.set({ x: x === 'step' ? null : x, from: null, to: null });
    follow(true);
    changed('range');
  }

  function range(low, high) {
    view.set({ from: low, to: high }, true);
    follow(true);
    changed('range');
  }

  /** Updates the controls from the view. */
  function follow(values = false) {
    if (values) [from.value, to.value] = [view.get('from'), view.get('to')];
    const unit = view.get('x') === 'time' ? 'Seconds since the start' : 'Steps';
    put(words, unit);
    const crossed = isCrossed(view);
    put(wrong, crossed && '“From” is above “to”: the whole range is shown.');
    for (const input of [from, to]) {
      input.setAttribute('aria-label', `${unit}, ${input.id}`);
      input.setAttribute('aria-invalid', String(crossed));
    }
    reset.disabled = view.number('from') === null && view.number('to') === null;
  }

  function showStages(list, chosen) {
    const choice = (stage) =>
      button(STAGES[stage], () => choose(stage), { 'aria-pressed': stage === chosen, 'data-stage': stage });
    putIfNew(stages, [list, chosen], () => list.map(choice));
    stages.hidden = list.length < 2;
  }

  function choose(stage) {
    view.set({ stage, from: null, to: null }, true);
    follow(true);
    changed('stage');
  }

  const node = el(
    'div',
    { class: 'controls', role: 'group', 'aria-label': 'Chart settings' },
    stages,
    el('label', { class: 'field smoothing' }, el('span', { class: 'field-name' }, 'Smoothing ', amount), smoothing),
    el('label', { class: 'tick' }, log, 'Log axis'),
    cluster('X axis', {}, axis),
    cluster(words, { class: 'range', 'aria-label': 'Range' }, from, to, reset, wrong),
    copyLink(() => view.set(pins())),
  );
  follow();
  return { node, showStages, range };
}

function smoothingOf(view, changed) {
  const draw = debounce(() => changed('look'), reducedMotion() ? WAIT : 60);
  const heard = () => {
    amount.textContent = smoothing.value;
    view.set({ smooth: Number(smoothing.value) || null });
    draw();
  };
  const value = view.number('smooth') ?? 0;
  const smoothing = el('input', { type: 'range', min: 0, max: 0.99, step: 0.01, value, id: 'smoothing', oninput: heard });
  const amount = el('output', { for: 'smoothing' }, smoothing.value);
  return { smoothing, amount };
}

/** Returns whether the range's start is above its end. */
export function isCrossed(view) {
  const [from, to] = [view.number('from'), view.number('to')];
  return from !== null && to !== null && from > to;
}

/**
 * Copies the URL, to which `pin` adds the defaults, because the newest runs change over time. If the browser refuses
 * (plain http), shows the URL for manual copying.
 */
function copyLink(pin) {
  const said = el('span', { role: 'status', class: 'muted' });
  const copy = async () => {
    pin();
    try {
      await navigator.clipboard.writeText(location.href);
      said.textContent = 'copied';
      setTimeout(() => put(said), 2000);
    } catch {
      const line = el('input', { readonly: true, value: location.href, 'aria-label': 'Link to this view' });
      put(said, line);
      line.select();
    }
  };
  return el('span', { class: 'copy' }, button('Copy link', copy, { id: 'copy-link' }), said);
}

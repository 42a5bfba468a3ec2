// Controls of the overview's charts. Each writes into the view, and so into the address.

import { cluster, el, put, putIfNew, reducedMotion } from './dom.js';
import { debounce } from './poll.js';

const WAIT = 250; // ms after the last key
export const STAGES = { sft: 'SFT', rl: 'RL' };

/**
 * Builds them in `box`. `changed(what)`: 'stage', 'look' (drawn anew) or 'range' (asked for anew).
 * `pins()`: what is shown though the address does not say so; a link that is copied holds it.
 */
export function controls(box, view, changed, pins) {
  const stages = el('div', { class: 'segments', role: 'group', 'aria-label': 'Stage', 'data-testid': 'stages' });
  const smoothing = el('input', {
    type: 'range',
    min: 0,
    max: 0.99,
    step: 0.01,
    value: view.number('smooth') ?? 0,
    id: 'smoothing',
  });
  const amount = el('output', { for: 'smoothing' }, smoothing.value);
  const draw = debounce(() => changed('look'), reducedMotion() ? WAIT : 60);
  smoothing.addEventListener('input', () => {
    amount.textContent = smoothing.value;
    view.set({ smooth: Number(smoothing.value) || null });
    draw();
  });
  const log = el('input', { type: 'checkbox', id: 'log', checked: view.get('log') === '1' });
  log.addEventListener('change', () => {
    view.set({ log: log.checked ? '1' : null });
    changed('look');
  });
  const axis = ['step', 'time'].map((x) =>
    el(
      'label',
      { class: 'segment' },
      el('input', {
        type: 'radio',
        name: 'x',
        value: x,
        checked: (view.get('x') || 'step') === x,
        onchange: () => turn(x),
      }),
      x,
    ),
  );
  const from = el('input', { type: 'number', id: 'from', step: 'any', placeholder: 'from', value: view.get('from') });
  const to = el('input', { type: 'number', id: 'to', step: 'any', placeholder: 'to', value: view.get('to') });
  const reset = el('button', { type: 'button', id: 'reset-range', onclick: () => range(null, null) }, 'Whole range');
  const words = el('span');
  const wrong = el('span', { class: 'bad-text', role: 'status', id: 'range-fault' });
  const ask = debounce(() => {
    view.set({ from: from.value, to: to.value });
    follow();
    changed('range');
  }, WAIT);
  from.addEventListener('input', ask);
  to.addEventListener('input', ask);

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

  /** Brings the controls to what the view says. */
  function follow(values = false) {
    if (values) [from.value, to.value] = [view.get('from'), view.get('to')];
    const unit = view.get('x') === 'time' ? 'Seconds since the start' : 'Steps';
    put(words, unit);
    from.setAttribute('aria-label', `${unit}, from`);
    to.setAttribute('aria-label', `${unit}, to`);
    const crossed = isCrossed(view);
    put(wrong, crossed && '“From” is above “to”: the whole range is shown.');
    for (const input of [from, to]) {
      input.setAttribute('aria-invalid', String(crossed));
      input.setAttribute('aria-describedby', wrong.id);
    }
    reset.disabled = view.number('from') === null && view.number('to') === null;
  }

  put(
    box,
    stages,
    el('label', { class: 'field smoothing' }, el('span', { class: 'field-name' }, 'Smoothing ', amount), smoothing),
    el('label', { class: 'tick' }, log, 'Log axis'),
    cluster('Across', {}, axis),
    cluster(words, { class: 'range', 'aria-label': 'Range' }, from, to, reset, wrong),
    copyLink(() => view.set(pins())),
  );
  follow();

  function showStages(list, chosen) {
    const button = (stage) =>
      el(
        'button',
        { type: 'button', 'aria-pressed': stage === chosen, 'data-stage': stage, onclick: () => choose(stage) },
        STAGES[stage] ?? stage,
      );
    putIfNew(stages, [list, chosen], () => list.map(button));
    stages.hidden = list.length < 2;
  }

  function choose(stage) {
    view.set({ stage, from: null, to: null }, true);
    follow(true);
    changed('stage');
  }

  return { showStages, range };
}

/** True where the range's start is above its end. */
export function isCrossed(view) {
  const [from, to] = [view.number('from'), view.number('to')];
  return from !== null && to !== null && from > to;
}

/**
 * Copies the address, which holds the view once `pin` is called: the newest runs are others tomorrow. Where the browser
 * won't (plain http), it shows it to be copied.
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
  return el(
    'span',
    { class: 'copy' },
    el('button', { type: 'button', id: 'copy-link', onclick: copy }, 'Copy link'),
    said,
  );
}

// The alarm strip: what looks wrong, in which figures, what to do, and where to see it.

import { el, putIfNew, text } from './dom.js';
import { href } from './state.js';

const LEVELS = { serious: ['▲', 'Serious'], warning: ['△', 'Warning'] };
const FOLD_AT = 4;

/** `alarms`: of /api/alarms, or null while they are not known. `show(alarm)` leads to its chart. */
export function showAlarms(box, alarms, runs, show) {
  putIfNew(box, [alarms, runs.map((run) => run.id)], () => {
    if (!alarms) return [];
    if (!alarms.length)
      return runs.length
        ? [
            el(
              'p',
              { class: 'fine', 'data-testid': 'no-alarms' },
              el('span', { 'aria-hidden': 'true' }, '✓ '),
              'No known bad sign.',
            ),
          ]
        : [];
    const sorted = [...alarms].sort((a, b) => (a.level !== 'serious') - (b.level !== 'serious'));
    const items = sorted.map((alarm) => item(alarm, runs, show));
    const list = (part) => el('ul', { class: 'alarms' }, part);
    if (items.length <= FOLD_AT) return [list(items)];
    const rest = items.slice(FOLD_AT);
    return [
      list(items.slice(0, FOLD_AT)),
      el('details', { class: 'more-alarms' }, el('summary', {}, `${rest.length} more`), list(rest)),
    ];
  });
}

function item(alarm, runs, show) {
  const [icon, word] = LEVELS[alarm.level];
  const run = runs.find((one) => one.id === alarm.run);
  const episodes =
    alarm.step &&
    alarm.stage === 'rl' &&
    href('episodes', { run: alarm.run, source: 'train', step_from: alarm.step - 1, step_to: alarm.step - 1 });
  return el(
    'li',
    { class: `alarm ${alarm.level}`, 'data-testid': 'alarm', 'data-kind': alarm.kind },
    el(
      'p',
      { class: 'alarm-head' },
      el('span', { class: 'alarm-level' }, el('span', { 'aria-hidden': 'true' }, icon), ` ${word}`),
      el('strong', {}, text(alarm.title)),
      runs.length > 1 && el('span', { class: 'tag' }, text(run?.name ?? alarm.run)),
    ),
    alarm.detail && el('p', {}, text(alarm.detail)),
    alarm.remedy && el('p', { class: 'remedy' }, el('span', {}, 'What to do: '), text(alarm.remedy)),
    el(
      'p',
      { class: 'alarm-links' },
      alarm.chart &&
        el(
          'button',
          { type: 'button', class: 'link', onclick: () => show(alarm) },
          'Show the chart',
          el('span', { class: 'sr' }, ` of “${alarm.title}”`),
        ),
      episodes && el('a', { href: episodes }, `Episodes of step ${alarm.step}`),
    ),
  );
}

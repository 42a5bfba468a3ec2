// The alarm strip: what looks wrong, in which figures, what to do, and where to see it.

import { el, put, putIfNew, text } from './dom.js';
import { href } from './state.js';

const LEVELS = { serious: ['▲', 'Serious'], warning: ['△', 'Warning'] };
const FOLD_AT = 4; // signs in sight; serious ones always are
const MOST_TOLD = 5; // new signs that are told at once
// Which of the step's episodes show the sign.
const SHOWN_BY = {
  malformed: { stop: 'malformed' },
  truncated: { stop: 'truncated' },
  rounds: { stop: 'max_rounds' },
  reward_hacking: { correct: 'wrong', sort: '-reward' },
};

export class Alarms {
  /** `show(alarm)` leads to its chart. */
  constructor(show) {
    this.goTo = show;
    this.open = false; // the fold: it stays as it was left while the strip is made anew
    this.said = null; // keys of the signs when they were last told
    this.strip = el('div', { 'data-testid': 'alarms' });
    this.news = el('p', { class: 'sr', role: 'status', 'data-testid': 'alarm-news' });
    this.node = el('div', {}, this.news, this.strip);
  }

  /** `alarms`: of /api/alarms of `runs`. */
  show(alarms, runs) {
    const sorted = [...alarms].sort((a, b) => (a.level !== 'serious') - (b.level !== 'serious'));
    putIfNew(this.strip, [sorted, runs.map((run) => run.id)], () => this.make(sorted, runs));
    this.tell(sorted, runs);
  }

  make(sorted, runs) {
    if (!sorted.length) return runs.length ? [fine()] : [];
    const items = sorted.map((alarm) => item(alarm, runs, this.goTo));
    const list = (part) => el('ul', { class: 'alarms' }, part);
    const serious = sorted.filter((alarm) => alarm.level === 'serious').length;
    const first = Math.max(FOLD_AT, serious);
    const rest = items.slice(first);
    if (rest.length < 2) return [list(items)]; // a fold takes as much room as one
    const fold = (event) => (this.open = event.target.open);
    return [
      list(items.slice(0, first)),
      el(
        'details',
        { class: 'more-alarms', open: this.open, ontoggle: fold },
        el('summary', {}, `${rest.length} more warnings`),
        list(rest),
      ),
    ];
  }

  /** Tells those who can't see it when a sign comes or goes; not the figures in it, which each log line changes. */
  tell(sorted, runs) {
    const key = ({ run, kind, level }) => JSON.stringify([run, kind, level]);
    const keys = new Set(sorted.map(key));
    const fresh = sorted.filter((alarm) => !this.said?.has(key(alarm)));
    const same = this.said?.size === keys.size && !fresh.length;
    this.said = keys;
    if (same || (!runs.length && !keys.size)) return;
    const name = (alarm) => (runs.length > 1 ? `, ${runs.find((run) => run.id === alarm.run)?.name ?? alarm.run}` : '');
    const words = (alarm) => `${LEVELS[alarm.level][1]}: ${alarm.title}${name(alarm)}.`;
    const left = keys.size ? `Bad signs left: ${keys.size}.` : 'No known bad sign.';
    const more = fresh.length > MOST_TOLD ? ` And ${fresh.length - MOST_TOLD} more.` : '';
    put(this.news, text(fresh.length ? fresh.slice(0, MOST_TOLD).map(words).join(' ') + more : left));
  }
}

const fine = () =>
  el(
    'p',
    { class: 'fine', 'data-testid': 'no-alarms' },
    el('span', { 'aria-hidden': 'true' }, '✓ '),
    'No known bad sign.',
  );

/** Address of the episodes of an alarm's update: sampled by a policy that had made one step less. */
function episodes({ run, kind, step, stage }) {
  if (!step || stage !== 'rl') return null;
  return href('episodes', { run, source: 'train', step_from: step - 1, step_to: step - 1, ...SHOWN_BY[kind] });
}

function item(alarm, runs, show) {
  const [icon, word] = LEVELS[alarm.level];
  const run = runs.find((one) => one.id === alarm.run);
  const address = episodes(alarm);
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
      address && el('a', { href: address }, `Episodes sampled at step ${alarm.step - 1}`),
    ),
  );
}

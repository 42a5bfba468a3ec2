// The warnings: the problem, its figures, a remedy, and links to the evidence.

import { button, el, fold, put, putIfNew, sign, text, unseen } from './dom.js';
import { href } from './state.js';

const LEVELS = { serious: ['▲', 'Serious'], warning: ['△', 'Warning'] };
const FOLD_AT = 4; // visible warnings; serious ones are always visible
const MOST_TOLD = 5; // new warnings announced at once
// Filter for the step's episodes that show the problem.
const SHOWN_BY = {
  malformed: { stop: 'malformed' },
  truncated: { stop: 'truncated' },
  rounds: { stop: 'max_rounds' },
  reward_hacking: { correct: 'wrong', sort: '-reward' },
};

export class Warnings {
  /** `show(warning)` goes to its chart. */
  constructor(show) {
    this.goTo = show;
    this.open = false; // state of the fold, kept while the list is rebuilt
    this.said = null; // keys of the warnings that were announced last
    this.strip = el('div', { 'data-testid': 'warnings' });
    this.news = el('p', { class: 'sr', role: 'status', 'data-testid': 'warning-news' });
    this.node = el('div', {}, this.news, this.strip);
  }

  /** `warnings`: of /api/warnings of `runs`. */
  show(warnings, runs) {
    const sorted = [...warnings].sort((a, b) => (a.level !== 'serious') - (b.level !== 'serious'));
    putIfNew(this.strip, [sorted, runs.map((run) => run.id)], () => this.make(sorted, runs));
    this.tell(sorted, runs);
  }

  make(sorted, runs) {
    if (!sorted.length) return runs.length ? [el('p', { class: 'fine', 'data-testid': 'no-warnings' }, sign('✓ '), 'No warnings.')] : [];
    const items = sorted.map((warning) => item(warning, runs, this.goTo));
    const list = (part) => el('ul', { class: 'warnings' }, part);
    const first = Math.max(FOLD_AT, sorted.filter((warning) => warning.level === 'serious').length);
    const rest = items.slice(first);
    if (rest.length < 2) return [list(items)]; // a fold takes as much space as one warning
    const more = fold(`${rest.length} more warnings`, () => {}, { class: 'more-warnings', open: this.open }, list(rest));
    more.addEventListener('toggle', () => (this.open = more.open));
    return [list(items.slice(0, first)), more];
  }

  /** Announces new and cleared warnings to screen readers, without figures, which change with each log line. */
  tell(sorted, runs) {
    const key = ({ run, kind, level }) => JSON.stringify([run, kind, level]);
    const keys = new Set(sorted.map(key));
    const fresh = sorted.filter((warning) => !this.said?.has(key(warning)));
    const same = this.said?.size === keys.size && !fresh.length;
    this.said = keys;
    if (same || (!runs.length && !keys.size)) return;
    const name = ({ run }) => (runs.length > 1 ? `, ${runs.find((one) => one.id === run)?.name ?? run}` : '');
    const words = (warning) => `${LEVELS[warning.level][1]}: ${warning.title}${name(warning)}.`;
    const told = fresh.slice(0, MOST_TOLD).map(words);
    if (fresh.length > MOST_TOLD) told.push(`And ${fresh.length - MOST_TOLD} more.`);
    put(this.news, told.join(' ') || (keys.size ? `Warnings left: ${keys.size}.` : 'No warnings.'));
  }
}

/** URL of the episodes of a warning's update: sampled by a policy one step older. */
function episodes({ run, kind, step, stage }) {
  if (!step || stage !== 'rl') return null;
  return href('episodes', { run, source: 'train', step_from: step - 1, step_to: step - 1, ...SHOWN_BY[kind] });
}

function item(warning, runs, show) {
  const [icon, word] = LEVELS[warning.level];
  const run = runs.find((one) => one.id === warning.run);
  const address = episodes(warning);
  const chart = [`Show the chart`, unseen(` of “${warning.title}”`)];
  return el(
    'li',
    { class: `warning ${warning.level}`, 'data-testid': 'warning', 'data-kind': warning.kind },
    el(
      'p',
      { class: 'warning-head' },
      el('span', { class: 'warning-level' }, sign(icon), ` ${word}`),
      el('strong', {}, text(warning.title)),
      runs.length > 1 && el('span', { class: 'tag' }, text(run?.name ?? warning.run)),
    ),
    warning.detail && el('p', {}, text(warning.detail)),
    warning.remedy && el('p', { class: 'remedy' }, el('span', {}, 'What to do: '), text(warning.remedy)),
    el(
      'p',
      { class: 'warning-links' },
      warning.chart && button(chart, () => show(warning), { class: 'link' }),
      address && el('a', { href: address }, `Episodes sampled at step ${warning.step - 1}`),
    ),
  );
}

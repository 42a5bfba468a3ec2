// Compares two runs, checkpoints or ranges of steps on the same questions: the sides, and which questions are shown.

import { aborted, get } from './api.js';
import { questions, SIGNS, summary } from './compare_result.js';
import { button, cluster, el, field, fill, keepFocus, problem, put, scroller, select, sign, text } from './dom.js';
import { count, whole } from './format.js';
import { debounce } from './poll.js';
import { pages } from './table.js';

const LIMIT = 50;
const LAST = '999999999'; // last step of an open range
const BUSY = 300; // ms to the next request while files are indexed: each request indexes some
const SIDES = ['a', 'b'];
const KINDS = [
  ['all', 'all', ''],
  ['solved', 'solved', 'wrong in A, right in B'],
  ['lost', 'lost', 'right in A, wrong in B'],
  ['both', 'both right', 'right in both'],
  ['neither', 'neither', 'wrong in both'],
];

/** Splits run:source[:from-to] into its parts. An open end is empty. */
function parse(spec) {
  const [, run, source, from = '', to = from] = spec.match(/^([^:]*):(.*?)(?::(\d+)(?:-(\d+))?)?$/s) ?? [];
  const open = to === LAST;
  return { run: run ?? '', source: source ?? '', from: open && from === '0' ? '' : from, to: open ? '' : to };
}

function spec({ run, source, from, to }) {
  return `${run}:${source}${from !== '' || to !== '' ? `:${from || 0}-${to || LAST}` : ''}`;
}

export function mount(root, view, signal) {
  const form = el('div', { class: 'compare-form' });
  const result = el('div', { 'data-testid': 'compare-result' });
  put(root, el('h1', { tabindex: -1 }, 'Compare'), form, result);
  return fill(result, signal, async () => {
    const { runs } = await get('/api/runs', {}, signal);
    const sources = {};
    const learn = async (run) => {
      if (runs.some((one) => one.id === run)) sources[run] ??= (await get('/api/sources', { run }, signal)).sources;
    };
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0))[0]?.id;
    const asked = SIDES.map((side) => parse(view.get(side)).run).filter(Boolean);
    for (const run of asked.length ? asked : [newest]) await learn(run); // all runs would be too many to index
    start(form, result, view, signal, runs, sources, learn);
  });
}

/** Returns the default sides: a data set before and after RL, or the first and the last steps. */
function defaults(runs, sources) {
  const before = (name) => name.replace('eval/rl_', 'eval/sft_');
  for (const { id } of runs) {
    const names = (sources[id] ?? []).map((one) => one.source);
    const after = names.find((name) => name.startsWith('eval/rl_') && names.includes(before(name)));
    if (after) return { a: `${id}:${before(after)}`, b: `${id}:${after}` };
  }
  for (const { id } of runs) {
    const train = (sources[id] ?? []).find((one) => one.source === 'train' && one.steps[1] > one.steps[0]);
    if (!train) continue;
    const [first, last] = train.steps;
    const middle = Math.floor((first + last) / 2);
    return { a: `${id}:train:${first}-${middle}`, b: `${id}:train:${middle + 1}-${last}` };
  }
  return null;
}

function start(form, result, view, signal, runs, sources, learn) {
  const given = defaults(runs, sources);
  if (!given && !view.get('a')) {
    const words = 'Nothing to compare yet: it needs stored episodes of two evaluations or of several steps.';
    put(result, el('p', { class: 'empty' }, words));
    return;
  }
  for (const side of SIDES) if (!view.get(side)) view.set({ [side]: given?.[side] ?? view.get('a') });
  let asking = null;
  const later = debounce(() => read(), 250);

  function sideForm(side) {
    const now = parse(view.get(side));
    const known = sources[now.run] ?? [];
    const write = (changes, wait) => {
      view.set({ [side]: spec({ ...parse(view.get(side)), ...changes }), offset: null });
      if (wait) return later();
      build();
      read();
    };
    const choose = async (run) => {
      try {
        await learn(run);
      } catch (error) {
        if (!aborted(error)) put(result, problem(error.message, () => choose(run)));
        return;
      }
      const names = (sources[run] ?? []).map((one) => one.source);
      write({ run, source: names.includes(now.source) ? now.source : (names[0] ?? ''), from: '', to: '' });
    };
    /** Builds a menu that includes the value from the URL, even if it does not exist. */
    const menu = (words, options, value, onchange) => {
      const all = options.some(([one]) => one === value) ? options : [[value, value || 'choose…'], ...options];
      return field(words, select(all, value, onchange, { 'data-testid': `${side}-${words.toLowerCase()}` }));
    };
    const step = (key) => {
      const label = `Step ${key} of ${side.toUpperCase()}`;
      const oninput = (event) => write({ [key]: event.target.value }, true);
      return el('input', { type: 'number', min: 0, value: now[key], placeholder: key, 'aria-label': label, oninput });
    };
    const options = known.map((one) => [one.source, `${one.source} (${whole(one.episodes)})`]);
    return el(
      'fieldset',
      { class: 'side', 'data-testid': `side-${side}` },
      el('legend', {}, side.toUpperCase()),
      menu('Run', runs.map((run) => [run.id, run.name]), now.run, choose),
      menu('Source', options, now.source, (source) => write({ source, from: '', to: '' })),
      cluster('Steps', { class: 'pair' }, step('from'), step('to')),
    );
  }

  function build() {
    const swap = () => {
      view.set({ a: view.get('b'), b: view.get('a'), offset: null, kind: null }, true);
      build();
      read();
    };
    keepFocus(form, () => put(form, sideForm('a'), button('Swap', swap, { id: 'swap' }), sideForm('b')));
  }

  async function read() {
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    const kind = view.get('kind') || 'all';
    const offset = view.number('offset') ?? 0;
    result.setAttribute('aria-busy', 'true');
    try {
      const params = { a: view.get('a'), b: view.get('b'), kind, limit: LIMIT, offset };
      const answer = await get('/api/compare', params, AbortSignal.any([signal, mine.signal]));
      show(answer, kind, offset);
      if (isBusy(answer)) setTimeout(() => asking === mine && !signal.aborted && read(), BUSY);
    } catch (error) {
      if (!aborted(error)) put(result, problem(error.message, read));
    }
    if (asking === mine) result.setAttribute('aria-busy', 'false');
  }

  const isBusy = ({ indexing }) => indexing.files < indexing.of;

  function show(answer, kind, offset) {
    const counts = { ...answer.counts, all: Object.values(answer.counts).reduce((a, b) => a + b, 0) };
    const pager = el('nav', { class: 'pager', 'aria-label': 'Pages of the table' });
    const change = (changes) => {
      view.set(changes, true);
      read();
    };
    const choice = ([id, words, title]) => {
      const inside = [SIGNS[id] && sign(`${SIGNS[id]} `), words, el('span', { class: 'figure' }, whole(counts[id]))];
      const choose = () => change({ kind: id === 'all' ? null : id, offset: null });
      return button(inside, choose, { 'aria-pressed': id === kind, 'data-kind': id, title });
    };
    const { files, of } = answer.indexing;
    const growing = `Indexing ${whole(files)} of ${count(of, 'file')}: the figures are partial.`;
    const nothing = counts.all ? 'No questions of this kind.' : 'Nothing to compare: the two share no judged question.';
    const kinds = { class: 'segments kinds', role: 'group', 'aria-label': 'Which questions' };
    keepFocus(result, () =>
      put(
        result,
        summary(answer),
        answer.note && el('p', { class: 'notice warn', 'data-testid': 'compare-note' }, text(answer.note)),
        isBusy(answer) && el('p', { class: 'muted' }, growing),
        counts.all > 0 && el('div', kinds, KINDS.map(choice)),
        answer.rows.length
          ? scroller('Shared questions', { class: 'table-box' }, questions(answer, view.route))
          : el('p', { class: 'empty' }, nothing),
        pager,
      ),
    );
    if (counts[kind] > LIMIT)
      pages(pager, { offset, limit: LIMIT, total: counts[kind], shown: answer.rows.length }, (to) =>
        change({ offset: to || null }),
      );
  }

  build();
  read();
}

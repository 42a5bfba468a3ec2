// Two runs, checkpoints or ranges of steps on the same questions: what was solved, what was lost.

import { aborted, get } from './api.js';
import { cluster, el, field, keepFocus, problem, put, scroller, select, text } from './dom.js';
import { questions, SIGNS, summary } from './compare_view.js';
import { count, whole } from './format.js';
import { debounce } from './poll.js';
import { pages } from './table.js';

const LIMIT = 50;
const LAST = '999999999'; // step of an open end
const BUSY = 1000; // ms to the next question while files are indexed
const SIDES = ['a', 'b'];
const KINDS = [
  ['all', 'all', ''],
  ['solved', 'solved', 'wrong in A, right in B'],
  ['lost', 'lost', 'right in A, wrong in B'],
  ['both', 'both right', 'right in both'],
  ['neither', 'neither', 'wrong in both'],
];
/** run:source[:from-to] as its parts. An open end is empty. */
function parse(spec) {
  const [, run, source, from = '', to = from] = spec.match(/^([^:]*):(.*?)(?::(\d+)(?:-(\d+))?)?$/s) ?? [];
  const open = to === LAST;
  return { run: run ?? '', source: source ?? '', from: open && from === '0' ? '' : from, to: open ? '' : to };
}

function spec({ run, source, from, to }) {
  return `${run}:${source}${from !== '' || to !== '' ? `:${from || 0}-${to || LAST}` : ''}`;
}

export async function mount(root, view, signal) {
  const form = el('div', { class: 'compare-form' });
  const result = el('div', { 'data-testid': 'compare-result' });
  put(root, el('h1', { tabindex: -1 }, 'Compare'), form, result);
  try {
    const { runs } = await get('/api/runs', {}, signal);
    const sources = {};
    const learn = async (run) => {
      if (!runs.some((one) => one.id === run)) return;
      sources[run] ??= (await get('/api/sources', { run }, signal)).sources;
    };
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0))[0]?.id;
    const asked = SIDES.map((side) => parse(view.get(side)).run).filter(Boolean);
    for (const run of asked.length ? asked : [newest]) await learn(run); // of all runs, each would be indexed
    start(form, result, view, signal, runs, sources, learn);
  } catch (error) {
    if (!signal.aborted)
      put(
        result,
        problem(error.message, () => mount(root, view, signal)),
      );
  }
}

/** What is compared where the address says nothing: a data set before and after RL, or the first and the last steps. */
function defaults(runs, sources) {
  for (const run of runs) {
    const names = (sources[run.id] ?? []).map((one) => one.source);
    const after = names.find(
      (name) => name.startsWith('eval/rl_') && names.includes(name.replace('eval/rl_', 'eval/sft_')),
    );
    if (after) return { a: `${run.id}:${after.replace('eval/rl_', 'eval/sft_')}`, b: `${run.id}:${after}` };
  }
  for (const run of runs) {
    const train = (sources[run.id] ?? []).find((one) => one.source === 'train' && one.steps?.[1] > one.steps?.[0]);
    if (!train) continue;
    const [first, last] = train.steps;
    const middle = Math.floor((first + last) / 2);
    return { a: `${run.id}:train:${first}-${middle}`, b: `${run.id}:train:${middle + 1}-${last}` };
  }
  return null;
}

function start(form, result, view, signal, runs, sources, learn) {
  const given = defaults(runs, sources);
  if (!given && !view.get('a')) {
    put(
      result,
      el(
        'p',
        { class: 'empty' },
        'Nothing to compare yet: it takes stored episodes of two evaluations or of several steps.',
      ),
    );
    return;
  }
  for (const side of SIDES) if (!view.get(side)) view.set({ [side]: given?.[side] ?? view.get('a') });
  let asking = null;
  const later = debounce(() => read(), 250);

  function sideForm(side) {
    const now = parse(view.get(side));
    const known = sources[now.run] ?? [];
    const write = (changes, wait) => {
      const next = { ...parse(view.get(side)), ...changes };
      view.set({ [side]: spec(next), offset: null });
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
    const options = known.map((one) => [one.source, `${one.source} (${whole(one.episodes)})`]);
    if (!known.some((one) => one.source === now.source)) options.unshift([now.source, now.source || 'choose…']);
    const runOptions = runs.map((run) => [run.id, run.name]);
    if (!runs.some((run) => run.id === now.run)) runOptions.unshift([now.run, now.run || 'choose…']);
    const step = (key, words) =>
      el('input', {
        type: 'number',
        min: 0,
        value: now[key],
        placeholder: words,
        'aria-label': `Step ${words} of ${side.toUpperCase()}`,
        oninput: (e) => write({ [key]: e.target.value }, true),
      });
    return el(
      'fieldset',
      { class: 'side', 'data-testid': `side-${side}` },
      el('legend', {}, side.toUpperCase()),
      field(
        'Run',
        select(
          runOptions,
          now.run,
          (run) => choose(run),
          { 'data-testid': `${side}-run` },
        ),
      ),
      field(
        'Source',
        select(options, now.source, (source) => write({ source, from: '', to: '' }), {
          'data-testid': `${side}-source`,
        }),
      ),
      cluster('Steps', { class: 'pair' }, step('from', 'from'), step('to', 'to')),
    );
  }

  function build() {
    const swap = () => {
      view.set({ a: view.get('b'), b: view.get('a'), offset: null, kind: null }, true);
      build();
      read();
    };
    keepFocus(form, () =>
      put(form, sideForm('a'), el('button', { type: 'button', id: 'swap', onclick: swap }, 'Swap'), sideForm('b')),
    );
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
      if (answer.indexing?.files < answer.indexing?.of)
        setTimeout(() => asking === mine && !signal.aborted && read(), BUSY);
    } catch (error) {
      if (!aborted(error)) put(result, problem(error.message, read));
    }
    if (asking === mine) result.setAttribute('aria-busy', 'false');
  }

  function show(answer, kind, offset) {
    const counts = { ...answer.counts, all: Object.values(answer.counts).reduce((a, b) => a + b, 0) };
    const pager = el('nav', { class: 'pager', 'aria-label': 'Pages of the table' });
    const choose = (next) => {
      view.set({ kind: next === 'all' ? null : next, offset: null }, true);
      read();
    };
    const button = ([id, words, title]) =>
      el(
        'button',
        { type: 'button', 'aria-pressed': id === kind, 'data-kind': id, title, onclick: () => choose(id) },
        SIGNS[id] && el('span', { 'aria-hidden': 'true' }, `${SIGNS[id]} `),
        words,
        el('span', { class: 'figure' }, whole(counts[id])),
      );
    keepFocus(result, () =>
      put(
        result,
        summary(answer),
        answer.note && el('p', { class: 'notice warn', 'data-testid': 'compare-note' }, text(answer.note)),
        answer.indexing?.files < answer.indexing?.of &&
          el(
            'p',
            { class: 'muted' },
            `Indexing ${whole(answer.indexing.files)} of ${count(answer.indexing.of, 'file')}: the figures grow.`,
          ),
        counts.all > 0 &&
          el('div', { class: 'segments kinds', role: 'group', 'aria-label': 'Which questions' }, KINDS.map(button)),
        answer.rows.length
          ? scroller('Questions of both', { class: 'table-box' }, questions(answer, view.route))
          : el(
              'p',
              { class: 'empty' },
              counts.all ? 'No question is of this kind.' : 'Nothing to compare: the two share no judged question.',
            ),
        pager,
      ),
    );
    if (counts[kind] > LIMIT)
      pages(pager, { offset, limit: LIMIT, total: counts[kind], shown: answer.rows.length }, (to) => {
        view.set({ offset: to || null }, true);
        read();
      });
  }

  build();
  read();
}

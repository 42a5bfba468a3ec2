// The episodes page: filters, sorting, pages, and a text search of the outputs that continues by itself.

import { aborted, get } from './api.js';
import { button, el, keepFocus, problem, put, putIfNew, scroller, text } from './dom.js';
import { columns, faultList, indexing } from './episode_table.js';
import { FILTERS, filters } from './filters.js';
import { count, percent, whole } from './format.js';
import { poll } from './poll.js';
import { arrows, pages, table } from './table.js';

const LIMIT = 50;
const WATCH = 4000; // ms between two checks for new files
const BUSY = 300; // while files are indexed: each check indexes some

export function mount(root, view, signal) {
  const form = el('div');
  const status = el('p', { class: 'result-status', role: 'status', 'data-testid': 'result-status' });
  const searching = el('p', { class: 'searching', hidden: true, 'data-testid': 'searching' });
  const faults = el('div', { 'aria-live': 'polite', 'data-testid': 'faults' });
  const news = el('p', { class: 'news', hidden: true });
  const inner = el('div', { onkeydown: arrows });
  const box = scroller('Table of episodes', { class: 'table-box' }, inner);
  const trouble = el('div');
  const message = el('div', { 'aria-live': 'polite' });
  const pager = el('nav', { class: 'pager', 'aria-label': 'Pages of the table' });
  const line = el('div', { class: 'result-line' }, status, searching, news);
  put(root, el('h1', { tabindex: -1 }, 'Episodes'), form, line, message, faults, trouble, box, pager);

  let run = null;
  let asking = null; // AbortController of the current request
  let found = { rows: [], total: null, search: null };
  let known = ''; // response of /api/sources when the table was last read
  let busy = false;
  const bar = filters(form, view, changed);
  const order = () => view.get('sort') || '-step';

  function changed(name) {
    if (name === 'run') {
      run = view.get('run');
      known = '';
      complain([]); // clear the previous run's message
      view.set({ source: null, stop: null, group: null, qid: null });
    }
    if (name === 'run' || name === 'source') again();
    read();
  }

  /** Reads the table again, or resumes a search (`on`). A newer request or `stop` aborts it. */
  async function read(on = false) {
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    if (!on) found = { rows: [], total: null, search: null };
    const offset = view.get('text') ? 0 : (view.number('offset') ?? 0);
    const want = on ? found.rows.length + LIMIT : LIMIT;
    box.setAttribute('aria-busy', 'true');
    try {
      do {
        const page = { limit: want - found.rows.length, offset: offset || null, after: found.search?.after };
        const params = { run, ...view.pick(FILTERS), sort: order(), ...page };
        const answer = await get('/api/episodes', params, AbortSignal.any([signal, mine.signal]));
        found = { ...answer, rows: [...found.rows, ...answer.rows] };
        show(offset);
      } while (found.search?.after && found.rows.length < want);
      put(trouble);
    } catch (error) {
      if (!aborted(error)) put(trouble, problem(error.message, () => read()));
    }
    if (asking !== mine || signal.aborted) return;
    box.setAttribute('aria-busy', 'false');
    showSearch(false);
  }

  function show(offset) {
    const { rows, total } = found;
    const searched = Boolean(view.get('text'));
    const choose = (sort) => {
      view.set({ sort, offset: null }, true);
      read();
    };
    // a search is sorted by step
    const shown = columns(view.route).map((one) => (searched && one.sort !== 'step' ? { ...one, sort: null } : one));
    const attrs = { class: 'episodes-table', 'data-testid': 'episodes-table', 'aria-label': 'Episodes' };
    const made = table(attrs, shown, rows, {
      row: () => ({ 'data-testid': 'row' }),
      order: { now: found.sort ?? order(), choose },
    });
    keepFocus(inner, () => put(inner, made));
    box.hidden = !rows.length;
    const ms = found.ms !== undefined ? ` · ${whole(found.ms)} ms` : '';
    const amount = total === null ? `${whole(rows.length)} found so far` : rows.length ? `${count(total, 'episode')}${ms}` : empty();
    status.textContent = [amount, indexing(found.indexing)].filter(Boolean).join(' · ');
    putIfNew(faults, found.faults ?? [], () => faultList(found.faults ?? []));
    pager.hidden = !rows.length;
    if (searched) showSearch(Boolean(found.search?.after));
    else if (rows.length) pages(pager, { offset, limit: LIMIT, total, shown: rows.length }, turn);
  }

  function showSearch(going) {
    const { search } = found;
    searching.hidden = !search;
    if (!search) return;
    const share = search.of ? search.searched / search.of : 1;
    const left = Boolean(search.after);
    const way = found.sort === 'step' ? 'oldest first' : 'newest first';
    const words = left ? `Searched ${percent(share, 0)} of ${whole(search.of)}, ${way}` : `All searched, ${way}`;
    const on = (id) => button('Continue search', () => read(true), { id });
    put(
      searching,
      el('progress', { value: share, max: 1, 'aria-label': 'Searched' }),
      ` ${words} `,
      left && (going ? button('Stop', () => asking.abort(), { id: 'stop-search' }) : on('search-on')),
    );
    pager.hidden = !left || going || !found.rows.length;
    put(pager, on('find-more'));
  }

  function turn(offset) {
    view.set({ offset: offset || null }, true);
    read();
    box.scrollTop = 0;
    line.scrollIntoView({ block: 'nearest' });
  }

  const empty = () =>
    FILTERS.some((name) => view.get(name))
      ? 'No episode matches these filters.'
      : 'No episodes stored yet: RL writes one file per step to episodes/, an evaluation to eval/episodes/.';

  /** Updates the menus from /api/sources, and reloads the table or offers to if there is more data. */
  async function look() {
    const answer = await get('/api/sources', { run }, signal);
    const now = JSON.stringify(answer.sources.map((one) => [one.source, one.episodes]));
    busy = answer.indexing.files < answer.indexing.of;
    putIfNew(faults, answer.faults, () => faultList(answer.faults));
    // the table may have been read before all files were indexed, and this response after: the table's response tells
    const behind = found.indexing && found.indexing.files < found.indexing.of;
    if (now === known && !behind) return;
    if (now !== known) bar.showSources(answer.sources);
    const first = known === '';
    known = now;
    if (behind) {
      if (box.getAttribute('aria-busy') === 'false') read();
    } else if (first) return;
    else if (busy || !found.rows.length) read();
    else {
      const reload = () => {
        news.hidden = true;
        read();
      };
      put(news, 'There are new episodes. ', button('Show them', reload, { id: 'reload' }));
      news.hidden = false;
    }
  }

  /** Shows the run's problem, if there is one: its folder may be gone. */
  function complain(runs) {
    const words = runs.find((one) => one.id === run)?.message ?? '';
    const notice = () => words && el('p', { class: 'notice warn', 'data-testid': 'run-message' }, text(words));
    putIfNew(message, words, notice);
  }

  async function start() {
    const { runs } = await get('/api/runs', {}, signal);
    if (!runs.length) {
      put(trouble, el('p', { class: 'empty' }, 'No runs yet in the watched folders.'));
      return;
    }
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0))[0];
    run = view.get('run') || newest.id;
    if (!view.get('run')) view.set({ run });
    bar.showRuns(runs, run);
    complain(runs);
    if (!runs.some((one) => one.id === run)) put(trouble, problem(`There is no run ${run} here.`));
    else read();
  }

  const again = poll(
    async () => {
      if (!run) await start();
      else if (!busy) complain((await get('/api/runs', {}, signal)).runs);
      if (run) await look();
    },
    () => (busy ? BUSY : WATCH),
    signal,
  );
}

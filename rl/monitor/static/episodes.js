// The table of episodes: filters, sorting, pages, and a search through the outputs that goes on by itself.

import { aborted, get } from './api.js';
import { el, keepFocus, problem, put, putIfNew, scroller, text } from './dom.js';
import { COLUMNS, faultList, indexing, row } from './episode_rows.js';
import { FILTERS, filters } from './filters.js';
import { count, percent, whole } from './format.js';
import { poll } from './poll.js';
import { arrows, head, pages } from './table.js';

const LIMIT = 50;
const WATCH = 4000; // ms between two looks for new files
const BUSY = 1000; // while files are indexed
export function mount(root, view, signal) {
  const form = el('div');
  const status = el('p', { class: 'result-status', role: 'status', 'data-testid': 'result-status' });
  const searching = el('p', { class: 'searching', hidden: true, 'data-testid': 'searching' });
  const faults = el('div', { 'aria-live': 'polite', 'data-testid': 'faults' });
  const news = el('p', { class: 'news', hidden: true });
  const table = el('table', {
    class: 'episodes-table',
    'data-testid': 'episodes-table',
    'aria-label': 'Episodes',
    onkeydown: arrows,
  });
  const box = scroller('Table of episodes', { class: 'table-box' }, table);
  const trouble = el('div');
  const message = el('div', { 'aria-live': 'polite' });
  const pager = el('nav', { class: 'pager', 'aria-label': 'Pages of the table' });
  put(
    root,
    el('h1', { tabindex: -1 }, 'Episodes'),
    form,
    el('div', { class: 'result-line' }, status, searching, news),
    message,
    faults,
    trouble,
    box,
    pager,
  );

  let run = null;
  let asking = null; // AbortController of the question under way
  let found = { rows: [], total: null, search: null };
  let known = ''; // what /api/sources said when the table was last read
  const bar = filters(form, view, changed);
  const order = () => view.get('sort') || '-step';

  function changed(name) {
    if (name === 'run') {
      run = view.get('run');
      known = '';
      complain([]); // what was said of the last one
      view.set({ source: null, stop: null, group: null, qid: null });
      look();
    }
    if (name === 'source') look();
    read();
  }

  /** Reads the table anew, or on from where a search stood. A newer question ends this one, and so does `stop`. */
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
        const params = {
          run,
          ...view.pick(FILTERS),
          sort: order(),
          limit: want - found.rows.length,
          offset: offset || null,
          after: found.search?.after,
        };
        const answer = await get('/api/episodes', params, AbortSignal.any([signal, mine.signal]));
        found = { ...answer, rows: [...found.rows, ...answer.rows] };
        show(offset);
      } while (found.search?.after && found.rows.length < want);
      put(trouble);
    } catch (error) {
      if (!aborted(error))
        put(
          trouble,
          problem(error.message, () => read()),
        );
    }
    if (asking !== mine || signal.aborted) return;
    box.setAttribute('aria-busy', 'false');
    showSearch(false);
  }

  function show(offset) {
    const { rows, total } = found;
    const searched = Boolean(view.get('text'));
    const columns = searched
      ? COLUMNS.map(({ sort, ...column }) => (sort === 'step' ? { ...column, sort } : column))
      : COLUMNS; // a search goes by step
    const titles = head(columns, found.sort ?? order(), (sort) => {
      view.set({ sort, offset: null }, true);
      read();
    });
    const lines = rows.map((one) => row(one, view.route));
    keepFocus(table, () => put(table, titles, el('tbody', {}, lines)));
    box.hidden = !rows.length;
    const ms = found.ms !== undefined ? ` · ${whole(found.ms)} ms` : '';
    const amount =
      total === null ? `${whole(rows.length)} found so far` : rows.length ? `${count(total, 'episode')}${ms}` : '';
    status.textContent = [amount, indexing(found.indexing)].filter(Boolean).join(' · ');
    if (total === 0 || (total !== null && !rows.length)) put(status, empty(), ' ', indexing(found.indexing));
    searching.hidden = !searched;
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
    put(
      searching,
      el('progress', { value: share, max: 1, 'aria-label': 'Searched' }),
      ` ${words} `,
      left && going && el('button', { type: 'button', id: 'stop-search', onclick: () => asking.abort() }, 'Stop'),
      left && !going && el('button', { type: 'button', id: 'search-on', onclick: () => read(true) }, 'Search on'),
    );
    pager.hidden = !left || going || !found.rows.length;
    put(pager, el('button', { type: 'button', id: 'find-more', onclick: () => read(true) }, 'Search on'));
  }

  function turn(offset) {
    view.set({ offset: offset || null }, true);
    read();
    box.scrollTop = 0;
    root.querySelector('.result-line').scrollIntoView({ block: 'nearest' });
  }

  function empty() {
    const narrowed = FILTERS.some((name) => view.get(name));
    return narrowed
      ? 'No episode fits these filters.'
      : 'No episodes stored yet: RL writes one file a step into episodes/, an evaluation into eval/episodes/.';
  }

  /** What is stored: the menus, and whether there is more than the table shows. */
  async function look() {
    if (!run) return;
    const answer = await get('/api/sources', { run }, signal);
    const now = JSON.stringify(answer.sources.map((one) => [one.source, one.episodes]));
    busy = answer.indexing && answer.indexing.files < answer.indexing.of;
    putIfNew(faults, answer.faults ?? [], () => faultList(answer.faults ?? []));
    if (now === known) return;
    bar.showSources(answer.sources);
    const first = known === '';
    known = now;
    if (first) return;
    if (busy || !found.rows.length) read();
    else {
      news.hidden = false;
      put(
        news,
        'There are new episodes. ',
        el(
          'button',
          {
            type: 'button',
            id: 'reload',
            onclick: () => {
              news.hidden = true;
              read();
            },
          },
          'Show them',
        ),
      );
    }
  }
  let busy = false;

  /** What is wrong with the run, if anything is: its folder may be gone. */
  function complain(runs) {
    const words = runs.find((one) => one.id === run)?.message ?? '';
    const notice = () => words && el('p', { class: 'notice warn', 'data-testid': 'run-message' }, text(words));
    putIfNew(message, words, notice);
  }

  async function start() {
    const { runs } = await get('/api/runs', {}, signal);
    if (!runs.length) {
      put(trouble, el('p', { class: 'empty' }, 'No run yet in the folders that are watched.'));
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

  poll(
    async () => {
      if (!run) await start();
      else if (!busy) complain((await get('/api/runs', {}, signal)).runs);
      await look();
    },
    () => (busy ? BUSY : WATCH),
    signal,
  );
}

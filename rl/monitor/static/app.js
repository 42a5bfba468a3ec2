// Router: the URL's hash selects the page. Each page is a module with `mount(root, view, signal)`.

import { el, problem, put } from './dom.js';
import { findPlace, leavePlace, watchLinks } from './places.js';
import { lastView, remember, View } from './state.js';
import { report } from './api.js';

const PAGES = {
  overview: ['Overview', () => import('./overview.js')],
  episodes: ['Episodes', () => import('./episodes.js')],
  group: ['Group', () => import('./group.js')],
  question: ['Question', () => import('./question.js')],
  compare: ['Compare', () => import('./compare.js')],
};
const UNDER = { group: 'episodes', question: 'episodes' };

const main = document.getElementById('main');
let leave = null;
let first = true;
let shown = null; // the rendered view; a control may have changed its route since

async function route() {
  const view = new View();
  if (shown) leavePlace(shown.route);
  shown = null;
  leave?.abort();
  leave = new AbortController();
  const { signal } = leave;
  report('poll', null);
  const [title, load] = Object.hasOwn(PAGES, view.page) ? PAGES[view.page] : [];
  mark(Object.hasOwn(UNDER, view.page) ? UNDER[view.page] : view.page);
  document.title = `${title ?? 'Not found'} · Sawtooth monitor`;
  if (!load) {
    put(
      main,
      el('h1', { tabindex: -1 }, 'No such page'),
      el('p', {}, el('a', { href: '#/overview' }, 'To the overview')),
    );
    return;
  }
  try {
    const page = await load();
    if (signal.aborted) return;
    remember(view);
    put(main);
    shown = view;
    page.mount(main, view, signal);
    scrollTo(0, 0);
    if (!first) main.querySelector('h1')?.focus({ preventScroll: true });
    findPlace(view.route, main, signal);
  } catch (error) {
    if (signal.aborted) return;
    console.error(error);
    put(main, el('h1', { tabindex: -1 }, title), problem(`This page could not be shown: ${error.message}`, route));
  }
  first = false;
}

/** Marks the page in the header; links to other pages lead to the view in which they were left. */
function mark(page) {
  for (const link of document.querySelectorAll('nav [data-page]')) {
    const here = link.dataset.page === page;
    link.href = lastView(link.dataset.page);
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the hash is a page's route
  (main.querySelector('h1') ?? main).focus();
});
watchLinks(main);
addEventListener('hashchange', route);
route();

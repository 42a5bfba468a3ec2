// The view is stored in the URL: #/page?name=value&… . Links and the back button restore it.

import { el, sign } from './dom.js';

/** The current view of the URL. */
export class View {
  constructor(hash = location.hash) {
    const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
    this.page = path || 'overview';
    this.params = new URLSearchParams(query);
  }

  get(name) {
    return this.params.get(name) ?? '';
  }

  /** Returns the comma-separated values; empty if there are none. */
  list(name) {
    return this.get(name).split(',').filter(Boolean);
  }

  /** Returns a finite number, or null. */
  number(name) {
    const value = this.get(name);
    return value.trim() !== '' && Number.isFinite(Number(value)) ? Number(value) : null;
  }

  /** Returns the values of those `names` that are set. */
  pick(names) {
    return Object.fromEntries(names.map((name) => [name, this.get(name)]).filter(([, value]) => value !== ''));
  }

  /** Changes the view and the URL without loading a page. `push`: the back button undoes it. */
  set(changes, push = false) {
    for (const [name, value] of Object.entries(changes)) {
      const words = Array.isArray(value) ? value.join(',') : value;
      if (words === null || words === undefined || words === '' || words === false) this.params.delete(name);
      else this.params.set(name, String(words));
    }
    const address = href(this.page, this.params);
    if (address === location.hash) return;
    if (push) history.pushState(null, '', address);
    else history.replaceState(null, '', address);
    remember(this);
  }

  get route() {
    return href(this.page, this.params).slice(2);
  }
}

/** Returns the URL of a page. Empty values are omitted; commas and slashes stay readable. */
export function href(page, params = {}) {
  const pairs = [...(params instanceof URLSearchParams ? params : Object.entries(params))];
  const query = new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== undefined && value !== ''));
  const words = query.toString().replaceAll('%2C', ',').replaceAll('%2F', '/').replaceAll('%3A', ':');
  return `#/${page}${words ? `?${words}` : ''}`;
}

const PAGES = { overview: 'the overview', episodes: 'the table', question: 'the question', compare: 'the comparison' };
const last = new Map();

/** Saves a page's view, so that its link in the header leads back to it. */
export function remember(view) {
  last.set(view.page, href(view.page, view.params));
}

export function lastView(page) {
  return last.get(page) ?? href(page);
}

/** Returns the link to the URL's `back=`, else to the table of episodes. Only pages of this monitor are allowed. */
export function backLink(view, kept) {
  const route = view.get('back');
  const page = route.split('?')[0];
  const known = Object.hasOwn(PAGES, page);
  const address = known ? `#/${route}` : href('episodes', view.pick(kept));
  const link = el('a', { href: address, 'data-testid': 'back' }, sign('← '), `Back to ${PAGES[known ? page : 'episodes']}`);
  return el('p', { class: 'back' }, link);
}

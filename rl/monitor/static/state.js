// The view lives in the address: #/page?name=value&… . A link keeps it, the back button goes to it.

import { el, sign } from './dom.js';

/** What the address shows now. */
export class View {
  constructor(hash = location.hash) {
    const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
    this.page = path || 'overview';
    this.params = new URLSearchParams(query);
  }

  get(name) {
    return this.params.get(name) ?? '';
  }

  /** The values between commas; empty where there are none. */
  list(name) {
    return this.get(name).split(',').filter(Boolean);
  }

  /** A finite number, or null. */
  number(name) {
    const value = this.get(name);
    return value.trim() !== '' && Number.isFinite(Number(value)) ? Number(value) : null;
  }

  /** Values of `names`, those that are set. */
  pick(names) {
    return Object.fromEntries(names.map((name) => [name, this.get(name)]).filter(([, value]) => value !== ''));
  }

  /** Changes the view and the address without a new page. `push`: the back button undoes it. */
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

/** The address of a page. Empty values are left out; commas and slashes stay readable. */
export function href(page, params = {}) {
  const pairs = [...(params instanceof URLSearchParams ? params : Object.entries(params))];
  const query = new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== undefined && value !== ''));
  const words = query.toString().replaceAll('%2C', ',').replaceAll('%2F', '/').replaceAll('%3A', ':');
  return `#/${page}${words ? `?${words}` : ''}`;
}

const PAGES = { overview: 'the overview', episodes: 'the table', question: 'the question', compare: 'the comparison' };
const last = new Map();

/** Keeps a page's view, so that its link in the header leads back to it. */
export function remember(view) {
  last.set(view.page, href(view.page, view.params));
}

export function lastView(page) {
  return last.get(page) ?? href(page);
}

/** The link to where `back=` of an address leads, else to the table of episodes. Only pages of this monitor count. */
export function backLink(view, kept) {
  const route = view.get('back');
  const page = route.split('?')[0];
  const known = Object.hasOwn(PAGES, page);
  const address = known ? `#/${route}` : href('episodes', view.pick(kept));
  const link = el('a', { href: address, 'data-testid': 'back' }, sign('← '), `Back to ${PAGES[known ? page : 'episodes']}`);
  return el('p', { class: 'back' }, link);
}

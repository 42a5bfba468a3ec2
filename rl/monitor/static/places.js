// Restores a page's scroll position and the link that was followed when the user comes back to it.

const PATIENCE = 30000; // ms for the rows to come back
const LOOK = 40; // ms between two checks
const places = new Map(); // by route; lives as long as the tab
const MOST = 100;

let followed = null; // the link followed last, by click or Enter

/** Watches for links that are followed in `main`. */
export function watchLinks(main) {
  main.addEventListener('click', (event) => {
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey; // opens another tab or window
    followed = elsewhere ? null : event.target.closest('a[href]');
  });
}

/** Saves the place of the page at `route` if a link led away from it. */
export function leavePlace(route) {
  if (!followed) return;
  if (places.size >= MOST) places.delete(places.keys().next().value);
  places.set(route, { top: scrollY, link: followed.getAttribute('href') });
  followed = null;
}

/** Returns to the saved place, if any, once its link is drawn, unless the user acts first. */
export function findPlace(route, main, signal) {
  const place = places.get(route);
  if (!place) return;
  places.delete(route);
  const late = AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]);
  const done = new AbortController();
  const over = AbortSignal.any([late, done.signal]);
  for (const kind of ['wheel', 'keydown', 'pointerdown']) addEventListener(kind, () => done.abort(), { signal: over });
  const look = () => {
    if (over.aborted) return;
    const link = [...main.querySelectorAll('a[href]')].find((one) => one.getAttribute('href') === place.link);
    if (!link) {
      setTimeout(look, LOOK);
      return;
    }
    scrollTo(0, place.top);
    link.focus({ preventScroll: true });
    done.abort();
  };
  look();
}

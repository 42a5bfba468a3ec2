// Where a page was left: how far it was scrolled, and the link that was followed. Coming back finds both again.

const PATIENCE = 5000; // ms for the rows to come back
const LOOK = 40; // ms between two looks
const places = new Map(); // by route; as long as the tab
const MOST = 100;

let followed = null; // the link that was clicked last, or taken with Enter

/** Watches for links that are followed in `main`. */
export function watchLinks(main) {
  main.addEventListener('click', (event) => {
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey; // in a tab of its own
    followed = elsewhere ? null : event.target.closest('a[href]');
  });
}

/** Keeps the place of the page at `route`, if a link led away from it. */
export function leavePlace(route) {
  if (!followed) return;
  if (places.size >= MOST) places.delete(places.keys().next().value);
  places.set(route, { top: scrollY, link: followed.getAttribute('href') });
  followed = null;
}

/** Goes back to it, if there is one, once its link is drawn, unless the user does something first. */
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

// Builds elements from values. Text becomes text nodes only: no code of the page parses HTML.

const PROPERTIES = new Set(['value', 'checked', 'disabled', 'selected', 'open', 'indeterminate']);
const SVG = 'http://www.w3.org/2000/svg';

/** Creates an element. `attrs`: null and false omit one, `onclick` etc. take functions. Children may be nested. */
export function el(tag, attrs, ...children) {
  return furnish(document.createElement(tag), attrs, children);
}

/** Creates an SVG element. */
export function svg(tag, attrs, ...children) {
  return furnish(document.createElementNS(SVG, tag), attrs, children);
}

function furnish(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (name.startsWith('aria-') && typeof value === 'boolean') node.setAttribute(name, String(value));
    else if (value === null || value === undefined || value === false) continue;
    else if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else if (!PROPERTIES.has(name)) node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...flat(children));
  for (const [name, value] of Object.entries(attrs ?? {})) {
    // After the children: a select accepts a value only if it has the option.
    if (PROPERTIES.has(name) && value !== null && value !== undefined) node[name] = value;
  }
  return node;
}

function flat(children) {
  return children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== '');
}

/** Replaces the contents of `node` with `children`. */
export function put(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

/** `put`, but only if `value` (JSON-serializable) has changed: a live region then stays quiet. */
export function putIfNew(node, value, make) {
  const key = JSON.stringify(value);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  keepFocus(node, () => put(node, make()));
}
const shown = new WeakMap();

const STOPS = 'a[href], button, input, select, summary';

/** Runs `work`, which rebuilds the inside of `node`, then focuses the control at the same position as before. */
export function keepFocus(node, work) {
  const at = [...node.querySelectorAll(STOPS)].indexOf(document.activeElement);
  work();
  if (at >= 0) [...node.querySelectorAll(STOPS)][at]?.focus({ preventScroll: true });
}

// Invisible characters that change the text: controls, zero-width and direction marks. Joiners (200c, 200d) are text.
const HIDDEN =
  /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g;
const MOST_MARKS = 500;

/** Text of a model or a data set as nodes. Hidden characters are kept, each isolated and shown by its number. */
export function text(value) {
  const source = String(value ?? '');
  const nodes = document.createDocumentFragment();
  let from = 0;
  let marks = 0;
  for (const match of source.matchAll(HIDDEN)) {
    if (++marks > MOST_MARKS) break;
    if (match.index > from) nodes.append(source.slice(from, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    const title = `hidden character U+${code}`;
    nodes.append(el('span', { class: 'hidden-char', 'data-code': `U+${code}`, title }, match[0]));
    from = match.index + match[0].length;
  }
  if (from < source.length) nodes.append(source.slice(from));
  return nodes;
}

/** A block or span of such text: keeps line breaks and isolates its direction and direction marks. */
export function model(value, tag = 'div', attrs = {}) {
  const { class: more, ...others } = attrs;
  return el(tag, { dir: 'auto', class: `model ${more ?? ''}`.trim(), ...others }, text(value));
}

const sizes = new ResizeObserver((entries) => {
  for (const box of new Set(entries.map((e) => scrollers.get(e.target)))) if (box) mark(box);
});
const scrollers = new WeakMap();
const labels = new WeakMap();

function mark(box) {
  const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
  const stop = { tabindex: '0', role: 'region', 'aria-label': labels.get(box) };
  for (const [name, value] of Object.entries(stop))
    if (scrolls) box.setAttribute(name, value);
    else box.removeAttribute(name);
}

/** A box that scrolls if its content is larger, and only then is in the tab order. */
export function scroller(label, attrs, ...children) {
  const { class: more, ...others } = attrs ?? {};
  const inner = el('div', { class: 'inner' }, children);
  const box = el('div', { class: `scroller ${more ?? ''}`.trim(), ...others }, inner);
  labels.set(box, label);
  for (const node of [box, inner]) {
    scrollers.set(node, box);
    sizes.observe(node);
  }
  return box;
}

/** A labeled control: `<label>` around its words and the control. */
export function field(words, control, attrs = {}) {
  return el('label', { class: 'field', ...attrs }, el('span', { class: 'field-name' }, words), control);
}

/** A group of controls under one name. */
export function cluster(words, attrs, ...controls) {
  const name = el('span', { class: 'field-name', 'aria-hidden': 'true' }, words);
  const label = typeof words === 'string' ? words : null;
  return el('div', { role: 'group', 'aria-label': label, ...attrs }, name, el('div', { class: 'cluster' }, controls));
}

/** A `<select>` of [value, words] pairs. */
export function select(options, value, onchange, attrs = {}) {
  const items = options.map(([v, words]) => el('option', { value: v }, words));
  return el('select', { ...attrs, value, onchange: (event) => onchange(event.target.value) }, items);
}

export function button(words, onclick, attrs = {}) {
  return el('button', { type: 'button', onclick, ...attrs }, words);
}

/** A collapsible section: `open()` is called each time it is opened. */
export function fold(words, open, attrs, ...inside) {
  const details = el('details', { ...attrs, ontoggle: () => details.open && open() }, el('summary', {}, words), inside);
  return details;
}

/** A fold whose contents are built by `make` (possibly async) when it is first opened. */
export function lazyFold(words, make, attrs = {}) {
  const box = el('div', { class: 'fold-body' });
  let filled = false;
  const open = async () => {
    if (filled) return;
    put(box, el('p', { class: 'loading' }, 'Reading…'));
    try {
      put(box, await make());
      filled = true;
    } catch (error) {
      if (box.isConnected) put(box, problem(error.message));
    }
  };
  return fold(words, open, { class: 'fold', ...attrs }, box);
}

/** Name-value pairs in a line; entries that are not pairs are omitted. */
export function facts(pairs, attrs = {}) {
  const { class: more, ...others } = attrs;
  const pair = ([term, value]) => el('div', {}, el('dt', { dir: 'auto' }, text(term)), el('dd', {}, value));
  return el('dl', { class: `figures ${more ?? ''}`.trim(), ...others }, pairs.filter(Boolean).map(pair));
}

/** Words for screen readers only. */
export const unseen = (words) => el('span', { class: 'sr' }, words);

/** A sign that screen readers skip; the words next to it are for everyone. */
export const sign = (character) => el('span', { 'aria-hidden': 'true' }, character);

const VERDICTS = { right: '✓', wrong: '✗', unjudged: '?' };

/** The verdict of an episode as sign and word: 1 is right, 0 wrong, null not judged. `short`: only the sign. */
export function verdict(correct, short = false) {
  const word = correct === null || correct === undefined ? 'unjudged' : correct >= 0.5 ? 'right' : 'wrong';
  return el('span', { class: `verdict ${word}`, 'data-verdict': word }, sign(VERDICTS[word]), short ? unseen(` ${word}`) : ` ${word}`);
}

/** Fills `box` with the result of `make`, or with the error and a retry button. */
export async function fill(box, signal, make) {
  try {
    await make();
  } catch (error) {
    if (!signal.aborted) put(box, problem(error.message, () => fill(box, signal, make)));
  }
}

/** A line with an error message, and a retry button if `again` is given. */
export function problem(message, again) {
  const retry = again && button('Try again', again);
  return el('p', { class: 'notice bad', role: 'alert', 'data-testid': 'error' }, text(message), ' ', retry);
}

export const reducedMotion = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

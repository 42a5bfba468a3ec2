// Elements from values. Text goes in as text nodes only: nothing here, nor anywhere else, parses HTML.

const PROPERTIES = new Set(['value', 'checked', 'disabled', 'selected', 'open', 'indeterminate']);
const SVG = 'http://www.w3.org/2000/svg';

/** An element. `attrs`: null and false leave one out, `onclick` and the like take functions. Children may be nested. */
export function el(tag, attrs, ...children) {
  return fill(document.createElement(tag), attrs, children);
}

/** An SVG element. */
export function svg(tag, attrs, ...children) {
  return fill(document.createElementNS(SVG, tag), attrs, children);
}

function fill(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (name.startsWith('aria-') && typeof value === 'boolean') node.setAttribute(name, String(value));
    else if (value === null || value === undefined || value === false) continue;
    else if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else if (!PROPERTIES.has(name)) node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...flat(children));
  for (const [name, value] of Object.entries(attrs ?? {})) {
    // After the children: a select takes a value only when it has the option.
    if (PROPERTIES.has(name) && value !== null && value !== undefined) node[name] = value;
  }
  return node;
}

function flat(children) {
  return children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== '');
}

/** Puts `children` in the place of what `node` held. */
export function put(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

/** `put`, but only where `value` (anything JSON can hold) is not what it was: a live region then stays quiet. */
export function putIfNew(node, value, make) {
  const key = JSON.stringify(value);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  keepFocus(node, () => put(node, make()));
}
const shown = new WeakMap();

const STOPS = 'a[href], button, input, select, summary';

/** Does `work`, which makes what is in `node` anew; then the control that stands where the focus was has it. */
export function keepFocus(node, work) {
  const at = [...node.querySelectorAll(STOPS)].indexOf(document.activeElement);
  work();
  if (at >= 0) [...node.querySelectorAll(STOPS)][at]?.focus({ preventScroll: true });
}

// What can't be seen but changes what is: controls, zero-width and direction marks. Joiners (200c, 200d) are writing.
const HIDDEN =
  /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g;
const MOST_MARKS = 500;

/** Text of a model or a data set as nodes. Hidden characters stay in it, each isolated and with its number. */
export function text(value) {
  const source = String(value ?? '');
  const nodes = document.createDocumentFragment();
  let from = 0;
  let marks = 0;
  for (const match of source.matchAll(HIDDEN)) {
    if (++marks > MOST_MARKS) break;
    if (match.index > from) nodes.append(source.slice(from, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    nodes.append(
      el('span', { class: 'hidden-char', 'data-code': `U+${code}`, title: `hidden character U+${code}` }, match[0]),
    );
    from = match.index + match[0].length;
  }
  if (from < source.length) nodes.append(source.slice(from));
  return nodes;
}

/** A block or span of such text: line breaks kept, its direction its own, and its marks can't leave it. */
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
  for (const [name, value] of [
    ['tabindex', '0'],
    ['role', 'region'],
    ['aria-label', labels.get(box)],
  ]) {
    if (scrolls) box.setAttribute(name, value);
    else box.removeAttribute(name);
  }
}

/** A box that scrolls where its content is larger, and only then is a stop for the keyboard. */
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

/** A labelled control: `<label>` around its words and the control. */
export function field(words, control, attrs = {}) {
  return el('label', { class: 'field', ...attrs }, el('span', { class: 'field-name' }, words), control);
}

/** Controls that belong together, under one name. */
export function cluster(words, attrs, ...controls) {
  return el(
    'div',
    { role: 'group', 'aria-label': typeof words === 'string' ? words : null, ...attrs },
    el('span', { class: 'field-name', 'aria-hidden': 'true' }, words),
    el('div', { class: 'cluster' }, controls),
  );
}

/** A `<select>` of [value, words] pairs. */
export function select(options, value, onchange, attrs = {}) {
  const items = options.map(([v, words]) => el('option', { value: v }, words));
  return el('select', { ...attrs, value, onchange: (event) => onchange(event.target.value) }, items);
}

/** A line that says what went wrong, with a button to try again where `again` is given. */
export function problem(message, again) {
  const button = again && el('button', { type: 'button', onclick: again }, 'Try again');
  return el('p', { class: 'notice bad', role: 'alert', 'data-testid': 'error' }, text(message), ' ', button);
}

export const reducedMotion = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

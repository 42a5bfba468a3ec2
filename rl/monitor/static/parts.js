// Text with formulas, as the API gives it: text as text, MathML through an allow-list, the rest as its TeX source.

import { el, model, scroller } from './dom.js';

const MATHML = 'http://www.w3.org/1998/Math/MathML';
const ELEMENTS = new Set(
  (
    'math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom msub msup msubsup munder ' +
    'mover munderover mmultiscripts mprescripts none mtable mtr mtd mlabeledtr menclose mfenced semantics annotation'
  ).split(' '),
);
const ATTRIBUTES = new Set(
  (
    'display displaystyle scriptlevel mathvariant mathsize stretchy fence separator lspace rspace accent accentunder ' +
    'largeop movablelimits symmetric maxsize minsize form linethickness width height depth voffset ' +
    'columnalign rowalign columnspacing rowspacing columnlines rowlines ' +
    'columnspan rowspan notation open close separators encoding'
  ).split(' '),
);
const MOST = 20000; // elements of one formula

/** `parts` as one block. Attributes go to the block. */
export function parts(list, attrs = {}) {
  const box = el('div', { ...attrs, dir: 'auto', class: `model parts ${attrs.class ?? ''}`.trim() });
  for (const part of list ?? []) box.append('math' in part ? formula(part) : model(part.text, 'span'));
  return box;
}

function formula({ math, tex, display }) {
  const node = fromXml(math, tex);
  if (!node) return model(tex, 'code', { class: 'tex' });
  if (display) return scroller('Formula', { class: 'formula' }, node);
  return node;
}

/** A MathML element of what the allow-list lets through; null where the text is no MathML. */
function fromXml(source, tex) {
  const parsed = new DOMParser().parseFromString(String(source), 'application/xml');
  const root = parsed.documentElement;
  if (!root || root.localName !== 'math' || parsed.getElementsByTagName('parsererror').length) return null;
  const budget = { left: MOST };
  const node = copy(root, budget);
  if (!node || budget.left < 0) return null;
  node.setAttribute('alttext', tex ?? '');
  return node;
}

function copy(from, budget) {
  if ((budget.left -= 1) < 0) return null;
  if (from.nodeType === Node.TEXT_NODE || from.nodeType === Node.CDATA_SECTION_NODE)
    return document.createTextNode(from.data);
  if (from.nodeType !== Node.ELEMENT_NODE) return null;
  if (!ELEMENTS.has(from.localName)) return document.createTextNode(from.textContent);
  const node = document.createElementNS(MATHML, from.localName);
  for (const { localName, value } of from.attributes)
    if (ATTRIBUTES.has(localName)) node.setAttribute(localName, value);
  for (const child of from.childNodes) {
    const made = copy(child, budget);
    if (made) node.append(made);
  }
  return node;
}

/** The text of `parts`, formulas as TeX. */
export function plainText(list) {
  return (list ?? []).map((part) => ('math' in part ? part.tex : part.text)).join('');
}

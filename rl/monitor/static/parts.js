// Text with formulas from the API: text as text nodes, a formula's tree as MathML nodes. Nothing here parses markup.

import { el, model, scroller } from './dom.js';

const MATHML = 'http://www.w3.org/1998/Math/MathML';

/** Renders `parts` as one block with the given attributes. */
export function parts(list, attrs = {}) {
  const box = el('div', { ...attrs, dir: 'auto', class: `model parts ${attrs.class ?? ''}`.trim() });
  for (const part of list ?? []) box.append('math' in part ? formula(part) : model(part.text, 'span'));
  return box;
}

/** `math`: [tag, attributes, child, …] of the tags that the server allows (rl/monitor/texts.py). */
function formula({ math, tex, display }) {
  const made = node(math);
  made.setAttribute('alttext', tex);
  return display ? scroller('Formula', { class: 'formula' }, made) : made;
}

function node([tag, attributes, ...children]) {
  const made = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => (typeof child === 'string' ? child : node(child))));
  return made;
}

// The verdict of an episode: by sign and word, not by colour alone.

import { el } from './dom.js';

export const VERDICTS = { right: ['✓', 'right'], wrong: ['✗', 'wrong'], unknown: ['?', 'unjudged'] };

/** 1 is right, 0 wrong, null not judged. `short`: the sign alone, its word for screen readers. */
export function verdict(correct, short = false) {
  const kind = correct === null || correct === undefined ? 'unknown' : correct >= 0.5 ? 'right' : 'wrong';
  const [sign, word] = VERDICTS[kind];
  const said = short ? el('span', { class: 'sr' }, ` ${word}`) : ` ${word}`;
  return el(
    'span',
    { class: `verdict ${kind}`, 'data-verdict': kind },
    el('span', { 'aria-hidden': 'true' }, sign),
    said,
  );
}

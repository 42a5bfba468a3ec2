// One round of an episode: what it was fed, thought, handed on or concluded. Long parts are asked for when opened.

import { get } from './api.js';
import { el, model, problem, put, scroller, text } from './dom.js';
import { count, num, whole } from './format.js';
import { parts } from './parts.js';
import { tokens } from './tokens.js';

/** A round's block. `key`: run, source, step and episode, as /api/round wants them. */
export function round(data, key, signal) {
  const name = `round ${data.round + 1} of episode ${key.episode}`;
  let asked = null;
  const ask = () => {
    asked ??= get('/api/round', { ...key, round: data.round }, signal).catch((error) => {
      asked = null;
      throw error;
    });
    return asked;
  };
  const fold = (words, kind, make) => folded(words, kind, name, ask, make, signal);
  return el(
    'section',
    { class: `round ${data.kind}`, 'aria-label': name, 'data-testid': 'round', 'data-round': data.round },
    head(data),
    figures(data),
    fold(`Prompt as fed, ${count(data.prompt_tokens, 'token')}`, 'prompt', (full) => prompt(full, name)),
    fold(thinkingWords(data), 'thinking', (full) => [
      full.note && el('p', { class: 'note' }, text(full.note)),
      thinking(full, name),
    ]),
    data.summary && summary(data, name),
    data.conclusion && part('Conclusion', 'conclusion', parts(withoutFirstLines(data.conclusion)), name),
    fold(`Tokens and logprobs, ${count(data.completion_tokens, 'token')}`, 'logprobs', (full) => [
      full.note && el('p', { class: 'note' }, text(full.note)),
      tokens(full.tokens ?? [], name),
    ]),
    fold('Output as sampled', 'output', (full) =>
      scroller(`Output of ${name}`, { class: 'tall' }, model(full.output, 'pre')),
    ),
  );
}

function head(data) {
  const end =
    data.finish_reason &&
    data.finish_reason !== 'stop' &&
    `ended by ${data.finish_reason === 'length' ? 'its token limit' : data.finish_reason}`;
  return el(
    'h3',
    { class: 'round-head' },
    `Round ${data.round + 1}`,
    el('span', { class: `kind ${data.kind}` }, text(data.kind)),
    data.fault && el('span', { class: 'fault' }, text(data.fault.replaceAll('_', ' '))),
    end && el('span', { class: 'fault' }, end),
  );
}

function figures(data) {
  const known = (v) => v !== null && v !== undefined;
  const pairs = [
    [
      'prompt',
      whole(data.prompt_tokens) + (data.history_tokens ? ` (${whole(data.history_tokens)} of them history)` : ''),
    ],
    ['generated', whole(data.completion_tokens)],
    known(data.summary_tokens) && ['summary', whole(data.summary_tokens)],
    known(data.logprob_mean) && ['logprob mean', num(data.logprob_mean)],
    known(data.logprob_min) && ['least', num(data.logprob_min)],
    data.policy_steps?.length > 1 && ['weights of steps', [...new Set(data.policy_steps)].join(', ')],
  ].filter(Boolean);
  return el(
    'dl',
    { class: 'figures small' },
    pairs.map(([term, value]) => el('div', {}, el('dt', {}, term), el('dd', {}, value))),
  );
}

function thinkingWords(data) {
  const size = data.thinking_tokens ?? null;
  if (size !== null) return `Thinking, ${count(size, 'token')}`;
  return data.thinking_chars ? `Thinking, ${count(data.thinking_chars, 'character')}` : 'Thinking, empty';
}

/** Folded; its inside is made when it is first opened. */
function folded(words, kind, name, ask, make, signal) {
  const box = el('div', { class: 'fold-body' });
  let filled = false;
  const open = async (event) => {
    if (!event.target.open || filled) return;
    put(box, el('p', { class: 'loading' }, 'Reading…'));
    try {
      put(box, make(await ask()));
      filled = true;
    } catch (error) {
      if (!signal.aborted) put(box, problem(error.message));
    }
  };
  return el(
    'details',
    { class: 'fold', ontoggle: open, 'data-part': kind },
    el('summary', {}, words, el('span', { class: 'sr' }, ` (${name})`)),
    box,
  );
}

function prompt(full, name) {
  const pieces = full.prompt.map((piece) =>
    piece.kind === 'history'
      ? el('mark', { class: 'history' }, el('span', { class: 'piece-name' }, 'history'), model(piece.text, 'span'))
      : el(
          'span',
          { class: 'question-piece' },
          el('span', { class: 'piece-name' }, 'question'),
          model(piece.text, 'span'),
        ),
  );
  return [
    full.note && el('p', { class: 'note' }, text(full.note)),
    scroller(`Prompt of ${name}`, { class: 'tall prompt', 'data-testid': 'prompt' }, pieces),
  ];
}

function thinking(full, name) {
  const empty = !full.thinking?.some((part) => 'math' in part || part.text.trim());
  if (empty) return el('p', { class: 'muted' }, 'Nothing was thought in this round.');
  return scroller(`Thinking of ${name}`, { class: 'tall', 'data-testid': 'thinking' }, parts(full.thinking));
}

/** Parts without the empty lines that come first: a conclusion begins after `</think>` and a line or two. */
function withoutFirstLines(list) {
  const [first, ...rest] = list;
  return first && !('math' in first) ? [{ ...first, text: first.text.replace(/^\s*\n/, '') }, ...rest] : list;
}

function part(title, kind, body, name, ...beside) {
  return el(
    'div',
    { class: `part ${kind}`, 'data-testid': kind },
    el('p', { class: 'part-head' }, el('span', { class: 'part-name' }, title), beside),
    scroller(`${title} of ${name}`, { class: 'tall' }, body),
  );
}

function summary(data, name) {
  const plain = parts(data.summary);
  const changes = data.summary_changes;
  if (!changes) return part('Summary', 'summary', plain, name);
  const marked = el(
    'div',
    { class: 'model changes', dir: 'auto', hidden: true, 'data-testid': 'changes' },
    changes.map(change),
  );
  const toggle = el(
    'button',
    {
      type: 'button',
      class: 'link toggle-changes',
      'aria-pressed': false,
      onclick: () => turn(toggle.getAttribute('aria-pressed') !== 'true'),
    },
    'Changes to the last summary',
  );
  function turn(on) {
    toggle.setAttribute('aria-pressed', String(on));
    marked.hidden = !on;
    plain.hidden = on;
  }
  toggle.turn = turn; // the group's own switch turns all of them
  return part('Summary', 'summary', [plain, marked], name, toggle);
}

function change({ op, text: words }) {
  if (op === 'added') return el('ins', {}, text(words));
  if (op === 'removed') return el('del', {}, text(words));
  return text(words);
}

// One round of an episode: its prompt, thinking, and summary or conclusion. Long parts are requested when opened.

import { get } from './api.js';
import { button, el, facts, lazyFold, model, scroller, text, unseen } from './dom.js';
import { count, num, whole } from './format.js';
import { parts } from './parts.js';
import { tokens } from './tokens.js';

/** A round's block. `key`: run, source, step and episode, as in /api/round. */
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
  /** A part that is requested when opened, with the server's note on its tokens. */
  const part = (words, kind, make) => {
    const inside = async () => {
      const full = await ask();
      return [kind !== 'output' && full.note && el('p', { class: 'note' }, text(full.note)), make(full)];
    };
    return lazyFold([words, unseen(` (${name})`)], inside, { 'data-part': kind });
  };
  const tall = (words, inner, attrs = {}) => scroller(`${words} of ${name}`, { class: 'tall', ...attrs }, inner);
  return el(
    'section',
    { class: `round ${data.kind}`, 'aria-label': name, 'data-testid': 'round', 'data-round': data.round },
    head(data),
    figures(data),
    part(`Prompt as fed, ${count(data.prompt_tokens, 'token')}`, 'prompt', (full) =>
      tall('Prompt', full.prompt.map(piece), { class: 'tall prompt', 'data-testid': 'prompt' }),
    ),
    part(thinkingWords(data), 'thinking', (full) =>
      full.thinking.some((one) => 'math' in one || one.text.trim())
        ? tall('Thinking', parts(full.thinking), { 'data-testid': 'thinking' })
        : el('p', { class: 'muted' }, 'No thinking in this round.'),
    ),
    data.summary && summary(data, tall),
    data.conclusion && shown('Conclusion', 'conclusion', parts(withoutFirstLines(data.conclusion)), tall),
    part(`Tokens and logprobs, ${count(data.completion_tokens, 'token')}`, 'logprobs', (full) => tokens(full.tokens, name)),
    part('Output as sampled', 'output', (full) => tall('Output', model(full.output, 'pre'))),
  );
}

function head(data) {
  const fault = (words) => words && el('span', { class: 'fault' }, text(words));
  const limit = data.finish_reason === 'length' ? 'its token limit' : data.finish_reason;
  return el(
    'h3',
    { class: 'round-head' },
    `Round ${data.round + 1}`,
    el('span', { class: `kind ${data.kind}` }, text(data.kind)),
    fault(data.fault?.replaceAll('_', ' ')),
    fault(limit && limit !== 'stop' && `ended by ${limit}`),
  );
}

function figures(data) {
  const known = (v) => v !== null && v !== undefined;
  const history = data.history_tokens ? ` (${whole(data.history_tokens)} of them history)` : '';
  const pairs = [
    ['prompt', whole(data.prompt_tokens) + history],
    ['generated', whole(data.completion_tokens)],
    known(data.summary_tokens) && ['summary', whole(data.summary_tokens)],
    known(data.logprob_mean) && ['logprob mean', num(data.logprob_mean)],
    known(data.logprob_min) && ['logprob min', num(data.logprob_min)],
    data.policy_steps?.length > 1 && ['weights of steps', [...new Set(data.policy_steps)].join(', ')],
  ];
  return facts(pairs, { class: 'small' });
}

function thinkingWords(data) {
  if (data.thinking_tokens !== undefined) return `Thinking, ${count(data.thinking_tokens, 'token')}`;
  return data.thinking_chars ? `Thinking, ${count(data.thinking_chars, 'character')}` : 'Thinking, empty';
}

function piece({ kind, text: words }) {
  const name = el('span', { class: 'piece-name' }, kind);
  if (kind === 'history') return el('mark', { class: 'history' }, name, model(words, 'span'));
  return el('span', { class: 'question-piece' }, name, model(words, 'span'));
}

/** Removes leading empty lines: a conclusion begins a line or two after `</think>`. */
function withoutFirstLines(list) {
  const [first, ...rest] = list;
  return first && !('math' in first) ? [{ ...first, text: first.text.replace(/^\s*\n/, '') }, ...rest] : list;
}

function shown(title, kind, body, tall, ...beside) {
  const heading = el('p', { class: 'part-head' }, el('span', { class: 'part-name' }, title), beside);
  return el('div', { class: `part ${kind}`, 'data-testid': kind }, heading, tall(title, body));
}

function summary(data, tall) {
  const plain = parts(data.summary);
  const changes = data.summary_changes;
  if (!changes) return shown('Summary', 'summary', plain, tall);
  const attrs = { class: 'model changes', dir: 'auto', hidden: true, 'data-testid': 'changes' };
  const marked = el('div', attrs, changes.map(change));
  const click = () => toggle.turn(toggle.getAttribute('aria-pressed') !== 'true');
  const toggle = button('Changes to the last summary', click, { class: 'link toggle-changes', 'aria-pressed': false });
  toggle.turn = (on) => {
    toggle.setAttribute('aria-pressed', String(on)); // the group's switch toggles all of them
    marked.hidden = !on;
    plain.hidden = on;
  };
  return shown('Summary', 'summary', [plain, marked], tall, toggle);
}

function change({ op, text: words }) {
  if (op === 'added') return el('ins', {}, text(words));
  return op === 'removed' ? el('del', {}, text(words)) : text(words);
}

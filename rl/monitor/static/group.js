// A group: one question, and the episodes of it side by side, each a chain of rounds.

import { get } from './api.js';
import { el, problem, put, reducedMotion, scroller, text } from './dom.js';
import { count, duration, num, percent, signed, stopWords, whole } from './format.js';
import { parts } from './parts.js';
import { round } from './round.js';
import { extent, saw } from './saw.js';
import { href, wayBack } from './state.js';
import { verdict } from './verdict.js';

const ELSEWHERE = 6; // most links to groups of the question in other sources
const KEY = ['run', 'source', 'step', 'group'];

export async function mount(root, view, signal) {
  const box = el('div', { class: 'group-page' }, el('p', { class: 'loading' }, 'Reading the group…'));
  put(root, links(view), el('h1', { tabindex: -1 }, title(view.pick(KEY))), box);
  try {
    const group = await get('/api/group', view.pick(KEY), signal);
    show(box, group, view, signal);
  } catch (error) {
    if (!signal.aborted)
      put(
        box,
        problem(error.message, () => mount(root, view, signal)),
      );
  }
}

const title = ({ source, step, group }) => `Group ${group} of step ${step}, ${source}`;

function links(view) {
  const [address, words] = wayBack(view) ?? [href('episodes', view.pick(['run', 'source'])), 'Back to the table'];
  return el(
    'p',
    { class: 'back' },
    el('a', { href: address, 'data-testid': 'back' }, el('span', { 'aria-hidden': 'true' }, '← '), words),
  );
}

function show(box, group, view, signal) {
  const back = view.get('back');
  const here = { run: group.run, source: group.source, step: group.step, group: group.group };
  const sizes = extent(group.episodes.map((episode) => episode.saw));
  const cards = group.episodes.map((episode) => card(episode, here, sizes, signal));
  const strip = el(
    'div',
    { class: 'cards', role: 'region', tabindex: 0, 'aria-label': 'Episodes side by side', 'data-testid': 'cards' },
    cards,
  );
  put(
    box,
    el(
      'section',
      { class: 'card question-card', 'aria-label': 'Question' },
      scroller('Text of the question', { class: 'question-text', 'data-testid': 'question' }, parts(group.question)),
      el(
        'p',
        {},
        el('span', { class: 'muted' }, 'Gold answer: '),
        group.answer === null
          ? el('span', { class: 'muted' }, 'none')
          : el('code', { dir: 'auto', class: 'model', 'data-testid': 'answer' }, text(group.answer)),
      ),
      neighbours(group, back),
    ),
    index(group.episodes, strip),
    strip,
  );
  const asked = view.get('episode');
  const target = asked !== '' && cards.find((one) => one.dataset.episode === asked);
  if (target) point(target, strip, false);
}

/** The same question before and after, and over the whole training. */
function neighbours(group, back) {
  const others = group.others ?? [];
  const at = others.findIndex(
    (one) => one.source === group.source && one.step === group.step && one.group === group.group,
  );
  const later = (one) => one.source === group.source && one.step > group.step;
  const earlier = (one) => one.source === group.source && one.step < group.step;
  const previous = at >= 0 ? others[at - 1] : others.filter(earlier).at(-1);
  const next = at >= 0 ? others[at + 1] : others.find(later);
  const link = (one, words, id) =>
    one
      ? el(
          'a',
          { href: href('group', { run: group.run, ...one, back }), 'data-testid': id },
          words,
          el('span', { class: 'muted' }, ` (${one.source === group.source ? '' : `${one.source}, `}step ${one.step})`),
        )
      : el('span', { class: 'muted' }, id === 'previous' ? 'no earlier group of it' : 'no later group of it');
  return el(
    'nav',
    { class: 'neighbours', 'aria-label': 'The same question' },
    link(previous, '← earlier', 'previous'),
    el(
      'a',
      {
        href: href('question', { run: group.run, qid: group.qid, back: back || null }),
        'data-testid': 'over-training',
      },
      'This question over training',
    ),
    link(next, 'later →', 'next'),
    others
      .filter((one) => one.source !== group.source)
      .slice(0, ELSEWHERE)
      .map((one) =>
        el(
          'a',
          { href: href('group', { run: group.run, ...one, back }), 'data-testid': 'elsewhere' },
          text(`${one.source}, step ${one.step}`),
        ),
      ),
  );
}

/** All episodes in one line of buttons, each leading to its card, and switches for all of them. */
function index(episodes, strip) {
  const graded = episodes.filter((episode) => episode.correct !== null);
  const right = graded.filter((episode) => episode.correct >= 0.5).length;
  const jump = (episode) =>
    el(
      'button',
      {
        type: 'button',
        class: 'jump',
        onclick: () => point(strip.querySelector(`[data-episode="${episode.episode}"]`), strip, true),
      },
      verdict(episode.correct, true),
      ` ${episode.episode} `,
      el('span', { class: 'figure' }, signed(episode.advantage)),
    );
  const changes = el(
    'button',
    { type: 'button', 'aria-pressed': false, id: 'all-changes', onclick: () => turnAll() },
    'Show all changes to summaries',
  );
  const thoughts = el('button', { type: 'button', id: 'all-thinking', onclick: () => openAll() }, 'Open all thinking');
  function turnAll() {
    const on = changes.getAttribute('aria-pressed') !== 'true';
    changes.setAttribute('aria-pressed', String(on));
    for (const toggle of strip.querySelectorAll('.toggle-changes')) toggle.turn(on);
  }
  function openAll() {
    const all = [...strip.querySelectorAll('[data-part=thinking]')];
    const open = !all.every((one) => one.open);
    for (const one of all) one.open = open;
    thoughts.textContent = open ? 'Fold all thinking' : 'Open all thinking';
  }
  return el(
    'div',
    { class: 'group-bar' },
    el(
      'p',
      { 'data-testid': 'group-summary' },
      `${count(episodes.length, 'episode')}, ${graded.length ? `${right} of ${graded.length} right` : 'none judged'}`,
    ),
    el(
      'div',
      { class: 'jumps', role: 'group', 'aria-label': 'Go to an episode (its advantage beside it)' },
      episodes.map(jump),
    ),
    el('p', { class: 'note' }, 'Pictures: context over tokens generated; solid in rounds, dashed as one context.'),
    el('div', { class: 'buttons' }, strip.querySelector('.toggle-changes') && changes, thoughts),
  );
}

function point(target, strip, focus) {
  if (!target) return;
  strip.scrollTo({ left: target.offsetLeft - strip.offsetLeft, behavior: reducedMotion() ? 'auto' : 'smooth' });
  target.classList.add('pointed');
  setTimeout(() => target.classList.remove('pointed'), 2500);
  if (focus) target.querySelector('h2').focus({ preventScroll: true });
}

function card(episode, here, sizes, signal) {
  const name = `Episode ${episode.episode}`;
  const key = { run: here.run, source: here.source, step: here.step, episode: episode.episode };
  const figures = [
    ['reward', num(episode.reward)],
    ...Object.entries(episode.rewards ?? {}).map(([fn, value]) => [fn, num(value)]),
    ['advantage', signed(episode.advantage)],
    ['rounds', whole(episode.rounds_count)],
    ['tokens', whole(episode.tokens)],
    ['peak context', whole(episode.peak)],
    ['seconds', duration(episode.seconds)],
    episode.policy_steps?.length && ['weights of steps', [...new Set(episode.policy_steps)].join(', ')],
  ].filter(Boolean);
  const columns = Object.entries(episode.columns ?? {});
  return el(
    'article',
    { class: 'card episode', 'aria-label': name, 'data-testid': 'episode', 'data-episode': episode.episode },
    el(
      'header',
      {},
      el('h2', { tabindex: -1 }, name),
      verdict(episode.correct),
      el('span', { class: `stop ${episode.stop_reason}` }, stopWords(episode.stop_reason)),
    ),
    episode.error && el('p', { class: 'notice bad' }, text(episode.error)),
    el(
      'dl',
      { class: 'figures', 'data-testid': 'figures' },
      figures.map(([term, value]) => el('div', {}, el('dt', { dir: 'auto' }, text(term)), el('dd', {}, value))),
    ),
    episode.saw && saw(episode.saw, sizes, name),
    episode.rounds.length
      ? episode.rounds.map((one) => round(one, key, signal))
      : el('p', { class: 'muted' }, 'No round was sampled.'),
    columns.length > 0 &&
      el(
        'details',
        { class: 'fold' },
        el('summary', {}, 'Columns of the data', el('span', { class: 'sr' }, ` (${name})`)),
        el(
          'dl',
          { class: 'columns' },
          columns.map(([k, v]) =>
            el(
              'div',
              {},
              el('dt', {}, text(k)),
              el('dd', { dir: 'auto', class: 'model' }, text(typeof v === 'string' ? v : JSON.stringify(v))),
            ),
          ),
        ),
      ),
  );
}

export const share = (right, graded) => (graded ? percent(right / graded, 0) : '–');

// A group: one question and its episodes side by side, each a chain of rounds.

import { get } from './api.js';
import { button, el, facts, fill, fold, put, reducedMotion, scroller, text, unseen, verdict } from './dom.js';
import { count, duration, num, signed, stopWords, whole } from './format.js';
import { parts } from './parts.js';
import { round } from './round.js';
import { extent, saw } from './saw.js';
import { backLink, href } from './state.js';

const ELSEWHERE = 6; // most links to the question's groups in other sources
const KEY = ['run', 'source', 'step', 'group'];

export function mount(root, view, signal) {
  const box = el('div', { class: 'group-page' }, el('p', { class: 'loading' }, 'Reading the group…'));
  const title = `Group ${view.get('group')} of step ${view.get('step')}, ${view.get('source')}`;
  put(root, backLink(view, ['run', 'source']), el('h1', { tabindex: -1 }, title), box);
  return fill(box, signal, async () => show(box, await get('/api/group', view.pick(KEY), signal), view, signal));
}

function show(box, group, view, signal) {
  const back = view.get('back');
  const sizes = extent(group.episodes.map((episode) => episode.saw));
  const cards = group.episodes.map((episode) => card(episode, group, sizes, signal));
  const attrs = { class: 'cards', role: 'region', tabindex: 0, 'aria-label': 'Episodes side by side' };
  const strip = el('div', { ...attrs, 'data-testid': 'cards' }, cards);
  put(box, questionCard(group, neighbours(group, back)), index(group.episodes, strip), strip);
  const asked = view.get('episode');
  const target = asked !== '' && cards.find((one) => one.dataset.episode === asked);
  if (target) point(target, strip, false);
}

/** A question with its gold answer, and `beside` next to it. */
export function questionCard({ question, answer }, beside) {
  const gold =
    answer === null
      ? el('span', { class: 'muted' }, 'none')
      : el('code', { dir: 'auto', class: 'model', 'data-testid': 'answer' }, text(answer));
  return el(
    'section',
    { class: 'card question-card', 'aria-label': 'Question' },
    scroller('Text of the question', { class: 'question-text', 'data-testid': 'question' }, parts(question)),
    el('p', {}, el('span', { class: 'muted' }, 'Gold answer: '), gold),
    beside,
  );
}

/** Links to the same question at earlier and later steps, and over the whole training. */
function neighbours({ others, ...group }, back) {
  const same = others.filter((one) => one.source === group.source);
  const address = (one) => href('group', { run: group.run, ...one, back });
  const link = (one, words, id) =>
    one
      ? el('a', { href: address(one), 'data-testid': id }, words, el('span', { class: 'muted' }, ` (step ${one.step})`))
      : el('span', { class: 'muted' }, `no ${id === 'previous' ? 'earlier' : 'later'} group`);
  const story = href('question', { run: group.run, qid: group.qid, back: back || null });
  const elsewhere = others.filter((one) => one.source !== group.source).slice(0, ELSEWHERE);
  const other = (one) =>
    el('a', { href: address(one), 'data-testid': 'elsewhere' }, text(`${one.source}, step ${one.step}`));
  return el(
    'nav',
    { class: 'neighbours', 'aria-label': 'The same question' },
    link(same.findLast((one) => one.step < group.step), '← earlier', 'previous'),
    el('a', { href: story, 'data-testid': 'over-training' }, 'This question over training'),
    link(same.find((one) => one.step > group.step), 'later →', 'next'),
    elsewhere.map(other),
  );
}

/** All episodes as a row of buttons, each leading to its card, and switches for all of them. */
function index(episodes, strip) {
  const graded = episodes.filter((episode) => episode.correct !== null);
  const right = graded.filter((episode) => episode.correct >= 0.5).length;
  const jump = ({ episode, correct, advantage }) => {
    const words = [verdict(correct, true), ` ${episode} `, el('span', { class: 'figure' }, signed(advantage))];
    return button(words, () => point(strip.querySelector(`[data-episode="${episode}"]`), strip, true), { class: 'jump' });
  };
  const turnAll = () => {
    const on = changes.getAttribute('aria-pressed') !== 'true';
    changes.setAttribute('aria-pressed', String(on));
    for (const toggle of strip.querySelectorAll('.toggle-changes')) toggle.turn(on);
  };
  const openAll = () => {
    const all = [...strip.querySelectorAll('[data-part=thinking]')];
    const open = !all.every((one) => one.open);
    for (const one of all) one.open = open;
    thoughts.textContent = open ? 'Fold all thinking' : 'Open all thinking';
  };
  const changes = button('Show all changes to summaries', turnAll, { 'aria-pressed': false, id: 'all-changes' });
  const thoughts = button('Open all thinking', openAll, { id: 'all-thinking' });
  const judged = graded.length ? `${right} of ${graded.length} right` : 'none judged';
  const jumps = { class: 'jumps', role: 'group', 'aria-label': 'Go to an episode (its advantage beside it)' };
  return el(
    'div',
    { class: 'group-bar' },
    el('p', { 'data-testid': 'group-summary' }, `${count(episodes.length, 'episode')}, ${judged}`),
    el('div', jumps, episodes.map(jump)),
    el('p', { class: 'note' }, 'Plots: context over generated tokens; solid: in rounds, dashed: in one context.'),
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

function card(episode, { run, source, step }, sizes, signal) {
  const name = `Episode ${episode.episode}`;
  const key = { run, source, step, episode: episode.episode };
  const figures = [
    ['reward', num(episode.reward)],
    ...Object.entries(episode.rewards).map(([fn, value]) => [fn, num(value)]),
    ['advantage', signed(episode.advantage)],
    ['rounds', whole(episode.rounds_count)],
    ['tokens', whole(episode.tokens)],
    ['peak context', whole(episode.peak)],
    ['seconds', duration(episode.seconds)],
    episode.policy_steps?.length && ['weights of steps', [...new Set(episode.policy_steps)].join(', ')],
  ];
  const attrs = { class: 'card episode', 'aria-label': name, 'data-testid': 'episode', 'data-episode': episode.episode };
  const stop = el('span', { class: `stop ${episode.stop_reason}` }, stopWords(episode.stop_reason));
  return el(
    'article',
    attrs,
    el('header', {}, el('h2', { tabindex: -1 }, name), verdict(episode.correct), stop),
    episode.error && el('p', { class: 'notice bad' }, text(episode.error)),
    facts(figures, { 'data-testid': 'figures' }),
    saw(episode.saw, sizes, name),
    episode.rounds.length
      ? episode.rounds.map((one) => round(one, key, signal))
      : el('p', { class: 'muted' }, 'No round was sampled.'),
    columns('Started from', Object.entries(episode.start ?? {}), name),
    columns('Columns of the data', Object.entries(episode.columns), name),
  );
}

function columns(title, list, name) {
  const shown = (value) => text(typeof value === 'string' ? value : JSON.stringify(value));
  const pair = ([k, v]) => el('div', {}, el('dt', {}, text(k)), el('dd', { dir: 'auto', class: 'model' }, shown(v)));
  const words = [title, unseen(` (${name})`)];
  return list.length > 0 && fold(words, () => {}, { class: 'fold' }, el('dl', { class: 'columns' }, list.map(pair)));
}

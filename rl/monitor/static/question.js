// One question over the whole training: how often it was solved, with how many tokens and rounds.

import { get } from './api.js';
import { onScheme, runStyle } from './colors.js';
import { el, fill, problem, put, scroller, text, unseen } from './dom.js';
import { num, percent, whole } from './format.js';
import { questionCard } from './group.js';
import { draw, drop } from './plots.js';
import { debounce } from './poll.js';
import { backLink, href } from './state.js';
import { table } from './table.js';

const CURVES = [
  ['right', 'Share right', 'share of the judged episodes', (one) => (one.graded ? one.right / one.graded : null)],
  ['tokens', 'Tokens', 'mean per episode', (one) => one.tokens_mean],
  ['rounds', 'Rounds', 'mean per episode', (one) => one.rounds_mean],
];

export function mount(root, view, signal) {
  const box = el('div', {}, el('p', { class: 'loading' }, 'Reading the question…'));
  put(root, backLink(view, ['run']), el('h1', { tabindex: -1 }, 'A question over training'), box);
  const asked = view.pick(['run', 'qid']);
  return fill(box, signal, async () => show(box, await get('/api/question', asked, signal), view, signal));
}

function show(box, answer, view, signal) {
  const { steps } = answer;
  const run = view.get('run');
  const link = (one) => href('group', { run, source: one.source, step: one.step, group: one.group, back: view.route });
  const figures = steps.length > 1 ? CURVES.map((curve) => figure(curve, steps, link)) : [];
  const all = el('a', { href: href('episodes', { run, qid: view.get('qid') }) }, 'All episodes of this question');
  put(
    box,
    questionCard(answer, el('p', {}, all)),
    el('div', { class: 'charts' }, figures.map(([node]) => node)),
    el('h2', { id: 'groups-title' }, 'Its groups'),
    scroller('Groups of the question', { class: 'table-box' }, groups(steps, link)),
  );
  const paint = () => figures.forEach(([, again]) => again());
  paint();
  addEventListener('resize', debounce(paint, 120), { signal });
  onScheme(paint, signal);
  signal.addEventListener('abort', () => box.querySelectorAll('.plot').forEach(drop));
}

/** Returns [the plot's node, the function that draws it]. */
function figure([id, title, unit, value], steps, link) {
  const known = steps.filter((one) => value(one) !== null && value(one) !== undefined);
  const shown = id === 'right' ? percent : num;
  const ends = [known[0], known.at(-1)].map((one) => one && `${shown(value(one))} at step ${one.step}`);
  const words = known.length ? `${title}: ${ends.join(', ')}.` : `${title}: no data.`;
  const plot = el('div', { class: 'plot', role: 'img', 'aria-label': words });
  const caption = el('figcaption', {}, el('h2', { class: 'h3' }, title, ' ', el('span', { class: 'unit' }, unit)));
  const frame = el('div', { class: 'plot-frame' }, plot);
  const node = el('figure', { class: 'chart', id: `question-${id}` }, caption, frame);
  const xs = known.map((one) => one.step);
  const extent = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
  const again = () => {
    const series = [...new Set(steps.map((one) => one.source))].map((source, i) => {
      const of = known.filter((one) => one.source === source);
      const curve = { x: of.map((one) => one.step), y: of.map(value), low: null, high: null };
      return { ...curve, key: source, group: source, label: source, style: runStyle(i), joined: source === 'train' };
    });
    const look = { points: true, smoothing: 0, log: false, unit: id === 'right' ? 'share' : '', rows: [] };
    const axis = { xTitle: 'step', xHover: 'step %{x}', range: [null, null], extent };
    const click = (x) => {
      const one = known.find((each) => each.step === x);
      if (one) location.hash = link(one);
    };
    const events = { zoom() {}, unzoom: again, hide() {}, click };
    draw(plot, { series, ...look, ...axis }, events).catch((error) => put(plot, problem(error.message)));
  };
  return [node, again];
}

function groups(steps, link) {
  const step = (one) => el('a', { href: link(one) }, whole(one.step), unseen(` group ${one.group}`));
  const figure = (words, cell) => ({ words, class: 'n', cell });
  const columns = [
    { words: 'step', class: 'n', first: true, cell: step },
    { words: 'source', cell: (one) => text(one.source) },
    figure('right', (one) => (one.graded ? `${whole(one.right)} of ${whole(one.graded)}` : 'unjudged')),
    figure('episodes', (one) => whole(one.episodes)),
    figure('tokens', (one) => num(one.tokens_mean)),
    figure('rounds', (one) => num(one.rounds_mean)),
    figure('reward', (one) => num(one.reward_mean)),
  ];
  const attrs = { 'data-testid': 'question-table', 'aria-label': 'Groups of the question' };
  return table(attrs, columns, steps, { row: () => ({ 'data-testid': 'question-row' }) });
}

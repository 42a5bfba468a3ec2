// One question over the whole training: how often it was solved, with how many tokens and rounds.

import { get } from './api.js';
import { onScheme, runStyle } from './colours.js';
import { el, problem, put, scroller, text } from './dom.js';
import { swatch } from './legend.js';
import { count, num, percent, whole } from './format.js';
import { parts } from './parts.js';
import { draw, drop } from './plots.js';
import { debounce } from './poll.js';
import { href, wayBack } from './state.js';

const CURVES = [
  ['right', 'Share right', 'share of the judged episodes', (one) => (one.graded ? one.right / one.graded : null)],
  ['tokens', 'Tokens', 'mean of an episode', (one) => one.tokens_mean],
  ['rounds', 'Rounds', 'mean of an episode', (one) => one.rounds_mean],
];

export async function mount(root, view, signal) {
  const [address, words] = wayBack(view) ?? [href('episodes', view.pick(['run'])), 'Back to the table'];
  const box = el('div', {}, el('p', { class: 'loading' }, 'Reading the question…'));
  put(
    root,
    el(
      'p',
      { class: 'back' },
      el('a', { href: address, 'data-testid': 'back' }, el('span', { 'aria-hidden': 'true' }, '← '), words),
    ),
    el('h1', { tabindex: -1 }, 'A question over training'),
    box,
  );
  try {
    const answer = await get('/api/question', view.pick(['run', 'qid']), signal);
    show(box, answer, view, signal);
  } catch (error) {
    if (!signal.aborted)
      put(
        box,
        problem(error.message, () => mount(root, view, signal)),
      );
  }
}

function show(box, answer, view, signal) {
  const steps = answer.steps ?? [];
  const run = view.get('run');
  const link = (one) => href('group', { run, source: one.source, step: one.step, group: one.group, back: view.route });
  const sources = [...new Set(steps.map((one) => one.source))];
  const figures = steps.length > 1 ? CURVES.map((curve) => figure(curve, steps, sources, link)) : [];
  const all = href('episodes', { run, qid: view.get('qid') });
  put(
    box,
    el(
      'section',
      { class: 'card question-card', 'aria-label': 'Question' },
      scroller('Text of the question', { class: 'question-text', 'data-testid': 'question' }, parts(answer.question)),
      el(
        'p',
        {},
        el('span', { class: 'muted' }, 'Gold answer: '),
        answer.answer === null ? 'none' : el('code', { dir: 'auto', class: 'model' }, text(answer.answer)),
      ),
      el('p', {}, el('a', { href: all }, 'All episodes of this question')),
    ),
    steps.length ? null : el('p', { class: 'empty' }, 'No stored episode is of this question.'),
    el(
      'div',
      { class: 'charts' },
      figures.map(([node]) => node),
    ),
    steps.length > 0 && el('h2', { id: 'groups-title' }, 'Its groups'),
    steps.length > 0 && scroller('Groups of the question', { class: 'table-box' }, table(steps, link)),
  );
  const paint = () => figures.forEach(([, again]) => again());
  paint();
  addEventListener('resize', debounce(paint, 120), { signal });
  onScheme(paint, signal);
  signal.addEventListener('abort', () => box.querySelectorAll('.plot').forEach(drop));
}

function figure([id, title, unit, value], steps, sources, link) {
  const known = steps.filter((one) => value(one) !== null && value(one) !== undefined);
  const plot = el('div', { class: 'plot', role: 'img' });
  const first = known[0];
  const last = known.at(-1);
  const shown = id === 'right' ? percent : num;
  const words = known.length
    ? `${title}: ${shown(value(first))} at step ${first.step}, ${shown(value(last))} at step ${last.step}.`
    : `${title}: nothing known.`;
  plot.setAttribute('aria-label', words);
  const legend = el('ul', { class: 'legend plain' });
  const node = el(
    'figure',
    { class: 'chart', id: `question-${id}` },
    el('figcaption', {}, el('h2', { class: 'h3' }, title, ' ', el('span', { class: 'unit' }, unit)), legend),
    el('div', { class: 'plot-frame' }, plot),
  );
  const again = () => {
    const series = sources.map((source, i) => {
      const of = known.filter((one) => one.source === source);
      return {
        label: source,
        x: of.map((one) => one.step),
        y: of.map(value),
        low: null,
        high: null,
        style: { ...runStyle(i), mark: null },
        joined: source === 'train',
        hidden: false,
      };
    });
    put(
      legend,
      sources.length > 1 &&
        series.map((one) => el('li', {}, swatch(one.style), el('span', { class: 'legend-name' }, text(one.label)))),
    );
    const xs = known.map((one) => one.step);
    const extent = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    const click = (x) => {
      const one = known.find((each) => each.step === x);
      if (one) location.hash = link(one);
    };
    draw(
      plot,
      {
        series,
        points: true,
        smoothing: 0,
        log: false,
        unit: id === 'right' ? 'share' : '',
        xTitle: 'step',
        xHover: 'step %{x}',
        range: [null, null],
        extent,
        rows: [],
      },
      { zoom() {}, unzoom: again, click },
    ).catch((error) => put(plot, problem(error.message)));
  };
  return [node, again];
}

function table(steps, link) {
  const titles = [
    ['step', 'n'],
    ['source', ''],
    ['right', 'n'],
    ['episodes', 'n'],
    ['tokens', 'n'],
    ['rounds', 'n'],
    ['reward', 'n'],
  ];
  const row = (one) =>
    el(
      'tr',
      { 'data-testid': 'question-row' },
      el(
        'th',
        { scope: 'row', class: 'n' },
        el('a', { href: link(one) }, whole(one.step), el('span', { class: 'sr' }, ` group ${one.group}`)),
      ),
      el('td', {}, text(one.source)),
      el('td', { class: 'n' }, one.graded ? `${whole(one.right)} of ${whole(one.graded)}` : 'unjudged'),
      [whole(one.episodes), num(one.tokens_mean), num(one.rounds_mean), num(one.reward_mean)].map((v) =>
        el('td', { class: 'n' }, v),
      ),
    );
  const caption = el('caption', { class: 'sr' }, count(steps.length, 'group'));
  return el(
    'table',
    { 'data-testid': 'question-table' },
    caption,
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        titles.map(([h, c]) => el('th', { scope: 'col', class: c }, h)),
      ),
    ),
    el('tbody', {}, steps.map(row)),
  );
}

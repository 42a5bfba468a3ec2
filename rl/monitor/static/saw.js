// The saw plot: context length of an episode during generation. Solid: its rounds. Dashed: all tokens in one context.

import { svg } from './dom.js';
import { short, whole } from './format.js';

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [320, 110, 38, 18, 8, 8];

/** Returns the axes' maxima over several episodes, so that their plots are comparable: [generated, context]. */
export function extent(saws) {
  const most = (lists) => lists.flat().reduce((a, b) => Math.max(a, b ?? 0), 1);
  const known = saws.filter(Boolean);
  return [most(known.map((s) => s.generated)), most(known.map((s) => [...s.rounds, ...s.single]))];
}

/** Draws the plot of one episode. */
export function saw(data, [mostX, mostY], label) {
  const x = (v) => LEFT + ((WIDTH - LEFT - RIGHT) * v) / mostX;
  const y = (v) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * v) / mostY;
  const path = (values) =>
    values
      .map((v, i) =>
        v === null
          ? ''
          : `${i && values[i - 1] !== null ? 'L' : 'M'}${x(data.generated[i]).toFixed(1)} ${y(v).toFixed(1)}`,
      )
      .join('');
  const peak = data.rounds.reduce((a, b) => Math.max(a, b ?? 0), 0);
  const single = data.single.reduce((a, b) => Math.max(a, b ?? 0), 0);
  const words =
    `${label}: context over ${whole(data.generated.at(-1) ?? 0)} generated tokens. In rounds it peaks at ` +
    `${whole(peak)} tokens; the same tokens in one context would reach ${whole(single)}.`;
  const grid = [0, mostY].map((v) => svg('path', { d: `M${LEFT} ${y(v)}H${WIDTH - RIGHT}`, class: 'saw-grid' }));
  const ticks = [
    [LEFT - 5, y(mostY) + 4, 'end', short(mostY)],
    [LEFT - 5, y(0) + 3, 'end', '0'],
    [WIDTH - RIGHT, HEIGHT - 5, 'end', `${whole(mostX)} tokens generated`],
  ].map(([left, top, anchor, value]) => svg('text', { x: left, y: top, 'text-anchor': anchor }, value));
  return svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: 'saw', role: 'img', 'aria-label': words, 'data-testid': 'saw' },
    svg('title', {}, words),
    grid,
    ticks,
    svg('path', { d: path(data.single), class: 'saw-single' }),
    svg('path', { d: path(data.rounds), class: 'saw-rounds' }),
  );
}

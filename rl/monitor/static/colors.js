// Color, dash and mark of each curve. Runs differ by color and dash, so that color alone never tells them apart.

import { svg } from './dom.js';

const LIGHT = ['#2b62c9', '#b4530a', '#0b7d62', '#8a3fc7', '#b8256e', '#6d6200', '#0d7490', '#5a6472'];
const DARK = ['#7fb0ff', '#ffa361', '#4fd0ab', '#c49bff', '#ff8abf', '#d6c34f', '#62cdf0', '#aab4c3'];
const STROKES = { solid: '', dash: '6 4', dot: '1.5 3', dashdot: '6 3 1.5 3', longdash: '10 4', longdashdot: '10 3 1.5 3' };
const DASHES = Object.keys(STROKES);
const MARKS = ['circle', 'square', 'diamond', 'triangle-up', 'x', 'cross', 'star', 'pentagon'];

// Stop reasons have the report's colors, for a light and a dark page.
const STOPS = {
  'episode/stop/answered': ['#228833', '#63c97f'],
  'episode/stop/max_rounds': ['#ee7733', '#ffab70'],
  'episode/stop/malformed': ['#aa3377', '#e58abf'],
  'episode/stop/truncated': ['#cc3311', '#ff8266'],
  'episode/stop/failed': ['#6f6f6f', '#a9a9a9'],
};

const scheme = matchMedia('(prefers-color-scheme: dark)');
export const isDark = () => scheme.matches;

/** Calls `redraw` when the page switches between light and dark. */
export function onScheme(redraw, signal) {
  scheme.addEventListener('change', redraw, { signal });
}

/** Returns a color of the page by its name in style.css. */
export function pageColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function runStyle(index) {
  const palette = isDark() ? DARK : LIGHT;
  return { color: palette[index % palette.length], dash: DASHES[index % DASHES.length], mark: null };
}

/** Returns a sample of a run's line style. */
export function swatch({ color, dash }) {
  const line = svg('path', { d: 'M1 5H21', stroke: color, 'stroke-width': 2.5, 'stroke-dasharray': STROKES[dash] });
  return svg('svg', { width: 22, height: 10, viewBox: '0 0 22 10', 'aria-hidden': 'true', class: 'swatch' }, line);
}

/**
 * Returns the style of one curve of a chart.
 *
 * One run: a color per name, or a ramp if the names are counts (rounds: 1, 2, 3). Several runs: the run's color and
 * dash, and a shade and a mark per name. A `metric` that is a stop reason has its own color.
 */
export function curveStyle({ run, runs, name, names, ramp, metric }) {
  const solid = (color, mark = null) => ({ color, dash: 'solid', mark });
  if (runs > 1 && names === 1) return runStyle(run);
  if (runs > 1) {
    const style = runStyle(run);
    const towards = pageColor(name % 2 ? 'surface' : 'text');
    return { ...style, color: mix(style.color, towards, (0.55 * name) / names), mark: MARKS[name % MARKS.length] };
  }
  if (Object.hasOwn(STOPS, metric)) return solid(STOPS[metric][isDark() ? 1 : 0]);
  if (ramp) return solid(rampColor(names > 1 ? name / (names - 1) : 0), names > 4 ? MARKS[name % MARKS.length] : null);
  return { ...runStyle(name % LIGHT.length), dash: DASHES[Math.floor(name / LIGHT.length) % DASHES.length] };
}

function rampColor(share) {
  const [from, middle, to] = isDark() ? ['#5b6fd6', '#4fc3b0', '#f4d35e'] : ['#1f3b8f', '#1c8aa0', '#c98a00'];
  return share < 0.5 ? mix(from, middle, 2 * share) : mix(middle, to, 2 * share - 1);
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Interpolates by `share` from one `#rrggbb` to another. */
function mix(from, to, share) {
  const [a, b] = [channels(from), channels(to)];
  return `#${a.map((v, i) => Math.round(v + (b[i] - v) * share).toString(16).padStart(2, '0')).join('')}`;
}

/** Returns `#rrggbb` with opacity `share`. */
export function faint(hex, share) {
  return `rgba(${channels(hex).join(',')},${share})`;
}

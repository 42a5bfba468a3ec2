// Colour, dash and mark of each curve. Runs differ by colour and dash, so that colour alone never tells them apart.

const LIGHT = ['#2b62c9', '#b4530a', '#0b7d62', '#8a3fc7', '#b8256e', '#6d6200', '#0d7490', '#5a6472'];
const DARK = ['#7fb0ff', '#ffa361', '#4fd0ab', '#c49bff', '#ff8abf', '#d6c34f', '#62cdf0', '#aab4c3'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
const STROKES = {
  solid: '',
  dash: '6 4',
  dot: '1.5 3',
  dashdot: '6 3 1.5 3',
  longdash: '10 4',
  longdashdot: '10 3 1.5 3',
};
const MARKS = ['circle', 'square', 'diamond', 'triangle-up', 'x', 'cross', 'star', 'pentagon'];

// Stop reasons mean the same everywhere: these are the report's colours, on a light and on a dark page.
const STOPS = {
  'episode/stop/answered': ['#228833', '#63c97f'],
  'episode/stop/max_rounds': ['#ee7733', '#ffab70'],
  'episode/stop/malformed': ['#aa3377', '#e58abf'],
  'episode/stop/truncated': ['#cc3311', '#ff8266'],
  'episode/stop/failed': ['#6f6f6f', '#a9a9a9'],
};

const scheme = matchMedia('(prefers-color-scheme: dark)');
export const isDark = () => scheme.matches;

/** Calls `redraw` when the page turns light or dark. */
export function onScheme(redraw, signal) {
  scheme.addEventListener('change', redraw, { signal });
}

/** A colour of the page, by its name in style.css. */
export function pageColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function runStyle(index) {
  const palette = isDark() ? DARK : LIGHT;
  return { colour: palette[index % palette.length], dash: DASHES[index % DASHES.length], mark: null };
}

/**
 * Style of one curve of a chart.
 *
 * One run: a colour for each name, a ramp where the names count something (rounds: 1, 2, 3). Several runs: the run's
 * colour and dash, and for each name a shade and a mark. A `metric` that is a stop reason has a colour of its own.
 */
export function curveStyle({ run, runs, name, names, ramp, metric }) {
  if (runs > 1 && names === 1) return runStyle(run);
  if (runs > 1) {
    const style = runStyle(run);
    const towards = name % 2 ? 'surface' : 'text';
    return {
      ...style,
      colour: mix(style.colour, pageColour(towards), (0.55 * name) / names),
      mark: MARKS[name % MARKS.length],
    };
  }
  const [light, dark] = Object.hasOwn(STOPS, metric) ? STOPS[metric] : [];
  if (light) return { colour: isDark() ? dark : light, dash: 'solid', mark: null };
  if (ramp)
    return {
      colour: rampColour(names > 1 ? name / (names - 1) : 0),
      dash: 'solid',
      mark: names > 4 ? MARKS[name % MARKS.length] : null,
    };
  const style = runStyle(name % LIGHT.length);
  return { colour: style.colour, dash: DASHES[Math.floor(name / LIGHT.length) % DASHES.length], mark: null };
}

function rampColour(share) {
  const [from, middle, to] = isDark() ? ['#5b6fd6', '#4fc3b0', '#f4d35e'] : ['#1f3b8f', '#1c8aa0', '#c98a00'];
  return share < 0.5 ? mix(from, middle, 2 * share) : mix(middle, to, 2 * share - 1);
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** `share` of the way from one `#rrggbb` to another. */
export function mix(from, to, share) {
  const [a, b] = [channels(from), channels(to)];
  return `#${a
    .map((v, i) =>
      Math.round(v + (b[i] - v) * share)
        .toString(16)
        .padStart(2, '0'),
    )
    .join('')}`;
}

/** `#rrggbb` that lets `share` of itself through. */
export function faint(hex, share) {
  return `rgba(${channels(hex).join(',')},${share})`;
}

export const strokeDashes = (dash) => STROKES[dash] ?? '';

// Formats numbers for people. Unknown values are a dash.

const WHOLE = new Intl.NumberFormat('en');
const NONE = '–';

const known = (value) => typeof value === 'number' && Number.isFinite(value);

/** Four significant digits: 0.8197, 12,345, 1.3e-5. */
export function num(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return WHOLE.format(value).replace('-', '−');
  if (size >= 1e6 || size < 1e-3)
    return value
      .toExponential(2)
      .replace(/\.?0+e/, 'e')
      .replace('e+', 'e')
      .replaceAll('-', '−');
  if (size >= 1000) return WHOLE.format(Math.round(value)).replace('-', '−');
  return value
    .toPrecision(4)
    .replace(/(\.\d*?)0+$/, '$1')
    .replace(/\.$/, '')
    .replace('-', '−');
}

export function whole(value) {
  return known(value) ? WHOLE.format(Math.round(value)).replace('-', '−') : NONE;
}

/** A whole number in little space: 9,876, 50.2k, 1.3M. */
export function short(value) {
  if (!known(value) || Math.abs(value) < 9999.5) return whole(value);
  const [size, sign] = Math.abs(value) < 999500 ? [1e3, 'k'] : [1e6, 'M'];
  return num(Number((value / size).toPrecision(3))) + sign;
}

/** With its sign: +0.505, −1.2. */
export function signed(value) {
  return known(value) ? (value > 0 ? '+' : '') + num(Number(value.toPrecision(3))) : NONE;
}

/** A share in percent: 86.3 %. */
export function percent(value, digits = 1) {
  return known(value) ? `${(100 * value).toFixed(digits).replace('-', '−')} %` : NONE;
}

/** 42 s, 3 min 20 s, 5 h 10 min, 3 days. */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(s < 1 ? 2 : 1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 >= 1 && s < 600 ? ` ${Math.floor(s % 60)} s` : ''}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h${s % 3600 >= 60 ? ` ${Math.floor((s % 3600) / 60)} min` : ''}`;
  const days = Math.floor(s / 86400);
  return `${days} day${days === 1 ? '' : 's'}`;
}

export function ago(seconds) {
  if (!known(seconds)) return 'never';
  return seconds < 1.5 ? 'just now' : `${duration(Math.round(seconds))} ago`.replace('.0', '');
}

/** 1 episode, 2 episodes. */
export function count(value, one, many = `${one}s`) {
  return `${whole(value)} ${value === 1 ? one : many}`;
}

const STOPS = new Map([['max_rounds', 'out of rounds']]);

/** A stop reason in words. */
export const stopWords = (reason) => STOPS.get(reason) ?? reason ?? NONE;

// A plot for the keyboard and for screen readers: a slider over its points, moved by arrows, opened by Enter.

import { nearest } from './curves.js';
import { num } from './format.js';
import { point } from './plots.js';

export class Cursor {
  /** `frame`: what takes the focus; `plot`: what shows the hover label; `open(x)`. */
  constructor(frame, plot, title, hint, open) {
    Object.assign(this, { frame, plot, title, hint, open, xs: [], at: null });
    frame.addEventListener('keydown', (event) => this.key(event));
    frame.addEventListener('blur', () => point(plot, null));
  }

  /** Stands for these curves from now on. `size`: what an x is divided by where it is drawn; `time`: x is seconds. */
  take(members, { size, time }) {
    const end = this.xs[this.at ?? this.xs.length - 1];
    Object.assign(this, { members, size, time });
    this.xs = [...new Set(members.flatMap((one) => one.curve.x))].sort((a, b) => a - b);
    this.at = this.at === null ? null : nearest(this.xs, end);
    this.say();
  }

  say() {
    const { frame, xs } = this;
    if (!xs.length) {
      for (const name of ['role', 'tabindex', 'aria-valuenow', 'aria-valuetext']) frame.removeAttribute(name);
      return;
    }
    const x = xs[this.at ?? xs.length - 1];
    const figures = this.members.map(({ curve, label, hidden }) => {
      const at = nearest(curve.x, x);
      return curve.x[at] === x && !hidden ? `${label} ${num(curve.y[at])}` : null;
    });
    const where = this.time ? `${num(Math.round(x))} s` : `step ${num(x)}`;
    const values = {
      role: 'slider',
      tabindex: 0,
      'aria-label': `${this.title}: points of the chart`,
      'aria-describedby': this.hint,
      'aria-valuemin': xs[0],
      'aria-valuemax': xs[xs.length - 1],
      'aria-valuenow': x,
      'aria-valuetext': `${where}: ${figures.filter(Boolean).join(', ')}`,
    };
    for (const [name, value] of Object.entries(values)) frame.setAttribute(name, String(value));
  }

  key(event) {
    const end = this.xs.length - 1;
    const at = this.at ?? end;
    const page = Math.max(1, Math.round(end / 10));
    const moves = new Map([
      ['ArrowLeft', at - 1],
      ['ArrowDown', at - 1],
      ['ArrowRight', at + 1],
      ['ArrowUp', at + 1],
      ['Home', 0],
      ['End', end],
      ['PageDown', at - page],
      ['PageUp', at + page],
    ]);
    if (end < 0) return;
    if (moves.has(event.key)) {
      this.at = Math.min(end, Math.max(0, moves.get(event.key)));
      this.say();
      point(this.plot, this.xs[this.at] / this.size);
    } else if (event.key === 'Enter') this.open(this.xs[at]);
    else if (event.key === 'Escape') point(this.plot, null);
    else return;
    event.preventDefault();
  }
}

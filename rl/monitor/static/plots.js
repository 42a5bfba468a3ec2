// Plotly, loaded late and told little: lines with bands, stacks, a zoom that is handed on, clicks.

import { faint, pageColour } from './colours.js';
import { onOneGrid, smooth } from './curves.js';
import { lifted, lonely, positive } from './logaxis.js';

const SOURCE = '/vendor/plotly.min.js';
const HEIGHT = 210;
const ROW = 60; // height of one more run's stack
const GAP = 0.2; // between two stacks, of the height of a row: a fixed gap would leave many rows nothing
const DOUBLE = 320; // ms within which two clicks are one double-click
let loading = null;

/** The library. Asked for once the page has been painted. */
export function load() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = SOURCE;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error('plotly.min.js could not be loaded: no charts; the values below each are all the same.'));
    };
    requestAnimationFrame(() => setTimeout(() => document.head.append(script)));
  });
  return loading;
}

// Plotly reads <b> and <a> in names.
const plain = (words) => words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/**
 * Draws, or draws anew, what `chart` says in `box`.
 *
 * chart: { series: [{ label, x, y, low, high, style, row, hidden, joined }], rows: [label], stacked, smoothing, log,
 * unit, xTitle, xHover, range, extent, points }. Rows are stacks under one another, each with a label. x is in the unit
 * that is shown. `points`: marks, and lines only between those of a series that is `joined`.
 */
export async function draw(box, chart, events) {
  const Plotly = await load();
  if (!box.isConnected || !box.clientWidth) return;
  const rows = chart.stacked ? Math.max(1, chart.rows.length) : 1;
  const traces = chart.stacked ? stacks(chart) : chart.series.flatMap((one) => lines(one, chart));
  await Plotly.react(box, traces, layout(box, chart, rows), {
    displayModeBar: false,
    doubleClick: false,
    showTips: false,
    responsive: false,
    staticPlot: false,
  });
  if (!box.dataset.listens && events) listen(box, events);
}

export function drop(box) {
  if (!box.dataset.listens) return;
  delete box.dataset.listens;
  window.Plotly.purge(box);
}

function lines(one, chart) {
  const { colour, dash, mark } = one.style;
  const fit = (values) => (chart.log ? positive(values) : values);
  const y = fit(chart.points ? one.y : smooth(one.y, chart.smoothing));
  const common = { x: one.x, meta: one.run?.id ?? null, type: 'scatter', hoverinfo: 'skip', showlegend: false, visible: !one.hidden };
  const thin = { width: 0, color: colour };
  const traces = [];
  if (one.low) {
    const low = chart.log ? lifted(one.low, Math.min(...positive([...one.low, ...y]).filter(Boolean))) : one.low;
    traces.push({ ...common, y: low, mode: 'lines', line: thin });
    traces.push({
      ...common,
      y: chart.log ? positive(one.high) : one.high,
      mode: 'lines',
      line: thin,
      fill: 'tonexty',
      fillcolor: faint(colour, chart.smoothing ? 0.1 : 0.16),
    });
  }
  if (chart.smoothing && !chart.points) {
    traces.push({ ...common, y: fit(one.y), mode: 'lines', line: { width: 1, color: faint(colour, 0.32) } });
  }
  const alone = lonely(y);
  const few = alone.some(Boolean);
  traces.push({
    ...common,
    y,
    customdata: one.y,
    mode: chart.points ? (one.joined ? 'lines+markers' : 'markers') : mark || few ? 'lines+markers' : 'lines',
    line: { width: 1.8, color: colour, dash },
    marker: {
      color: colour,
      size: chart.points ? 7 : few && !mark ? alone.map((so) => (so ? 6 : 0)) : 6,
      symbol: mark ?? 'circle',
      maxdisplayed: chart.points || few ? 0 : 9,
    },
    hoverinfo: undefined,
    hovertemplate: `%{y:.4~g}${chart.smoothing ? ' (raw %{customdata:.4~g})' : ''}<extra>${plain(one.label)}</extra>`,
  });
  return traces;
}

function stacks(chart) {
  const traces = [];
  chart.rows.forEach((_, row) => {
    const members = chart.series.filter((one) => one.row === row && !one.hidden);
    onOneGrid(members).forEach((one) => {
      const { colour } = one.style;
      traces.push({
        x: one.x,
        meta: one.run?.id ?? null,
        y: smooth(one.y, chart.smoothing),
        type: 'scatter',
        mode: 'lines',
        stackgroup: `row${row}`,
        yaxis: row ? `y${row + 1}` : 'y',
        line: { width: 1, color: colour },
        fillcolor: faint(colour, 0.45),
        showlegend: false,
        hovertemplate: `%{y:.3~g}<extra>${plain(one.label)}</extra>`,
      });
    });
  });
  return traces;
}

function layout(box, chart, rows) {
  const muted = pageColour('muted');
  const axis = {
    gridcolor: pageColour('grid'),
    linecolor: pageColour('line'),
    zerolinecolor: pageColour('grid'),
    tickfont: { size: 11 },
  };
  const made = {
    width: box.clientWidth,
    height: HEIGHT + ROW * (rows - 1),
    margin: { l: 52, r: 10, t: 8, b: 38 },
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: 'system-ui, sans-serif', size: 12, color: muted },
    showlegend: false,
    hovermode: 'x unified',
    hoverlabel: {
      bgcolor: pageColour('surface'),
      bordercolor: pageColour('line'),
      font: { color: pageColour('text'), size: 12 },
    },
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    xaxis: {
      ...axis,
      title: { text: plain(chart.xTitle), standoff: 6, font: { size: 11 } },
      anchor: rows > 1 ? `y${rows}` : 'y',
      unifiedhovertitle: { text: chart.xHover },
      ...range(chart),
    },
  };
  for (let row = 0; row < rows; row++) {
    const share = 1 / rows;
    const gap = rows > 1 ? GAP * share : 0;
    made[row ? `yaxis${row + 1}` : 'yaxis'] = {
      ...axis,
      fixedrange: true,
      domain: [Math.max(0, 1 - (row + 1) * share + gap / 3), 1 - row * share - (2 / 3) * gap],
      type: chart.log ? 'log' : 'linear',
      rangemode: chart.stacked || /share/.test(chart.unit) ? 'tozero' : 'normal',
      exponentformat: 'e',
      nticks: rows > 1 ? 4 : 6,
      automargin: false,
      ...(rows > 1 ? { title: { text: plain(chart.rows[row].slice(0, 16)), standoff: 4, font: { size: 11 } } } : {}),
    };
  }
  return made;
}

function range({ range: [from, to], extent }) {
  const pad = (extent[1] - extent[0]) * 0.02 || 0.5;
  return { range: [from ?? extent[0] - pad, to ?? extent[1] + pad], autorange: false };
}

function listen(box, { zoom, unzoom, click }) {
  box.dataset.listens = 'yes';
  box.on('plotly_relayout', (change) => {
    const [from, to] = [change['xaxis.range[0]'], change['xaxis.range[1]']];
    if (from !== undefined && to !== undefined) zoom(from, to);
  });
  let waiting = 0; // a click may be the first half of a double-click,
  let doubled = 0; // whose second half comes after the event of the whole
  box.on('plotly_doubleclick', () => {
    clearTimeout(waiting);
    doubled = performance.now();
    unzoom();
  });
  box.on('plotly_click', ({ points, event }) => {
    clearTimeout(waiting);
    if (!points.length || performance.now() - doubled <= DOUBLE) return;
    const height = event.clientY - box.getBoundingClientRect().top;
    const off = ({ y, yaxis }) => Math.abs(yaxis.d2p(y) + yaxis._offset - height); // several curves meet at x
    const nearest = points.reduce((best, one) => (off(one) < off(best) ? one : best));
    waiting = setTimeout(() => box.isConnected && click(nearest.x, nearest.data.meta), DOUBLE);
  });
}

/** Shows the hover label of the points at x, as the keyboard asks for it; null: hides it. */
export function point(box, x) {
  if (!box.dataset.listens) return;
  if (x === null) window.Plotly.Fx.unhover(box);
  else window.Plotly.Fx.hover(box, { xval: x }, 'xy');
}

// Plotly, loaded lazily: lines with bands, stacks, its legend, zoom and clicks passed on to the page.

import { faint, pageColor } from './colors.js';
import { lonely, onOneGrid, positive, smooth } from './curves.js';

const SOURCE = '/vendor/plotly.min.js';
const HEIGHT = 210;
const ROW = 60; // height of each further run's stack
const GAP = 0.2; // between two stacks, as a share of row height: a fixed gap would leave many rows no space
const [LEFT, RIGHT, BOTTOM] = [52, 10, 38];
const ENTRY = 18; // height of a legend line
const MOST_LINES = 8; // of a legend; a longer one scrolls
const SMALL = 11; // pixels of the smaller font
const FONT = 'system-ui, sans-serif';
const DOUBLE = 320; // ms within which two clicks are one double-click
let loading = null;

/** Loads the library after the page has been painted. */
export function load() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = SOURCE;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error('plotly.min.js could not be loaded, so no chart is drawn: open Values below each chart.'));
    };
    requestAnimationFrame(() => setTimeout(() => document.head.append(script)));
  });
  return loading;
}

// Plotly interprets <b> and <a> in names.
const plain = (words) => words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/**
 * Draws or redraws `chart` in `box`.
 *
 * chart: { series: [{ key, group, label, latest, run, x, y, low, high, style, row, hidden, joined }], rows: [label],
 * stacked, smoothing, log, unit, xTitle, xHover, range, extent, points }. Rows are stacks below one another, with a
 * label each; series of one `group` share a legend entry. x is in the displayed unit. `points`: markers, with lines
 * only in a series that is `joined`.
 */
export async function draw(box, chart, events) {
  const Plotly = await load();
  if (!box.isConnected || !box.clientWidth) return;
  const traces = chart.stacked ? stacks(chart) : chart.series.flatMap((one) => lines(one, chart));
  const config = { displayModeBar: false, doubleClick: false, showTips: false, responsive: false };
  await Plotly.react(box, traces, layout(box, chart, traces), config);
  if (!box.dataset.listens) listen(box, events);
}

export function drop(box) {
  if (!box.dataset.listens) return;
  delete box.dataset.listens;
  window.Plotly.purge(box);
}

/** Properties shared by the traces of a series. `shown`: it has the legend entry. */
function common(one, shown) {
  return {
    x: one.x,
    meta: { run: one.run?.id ?? null, key: one.key },
    type: 'scatter',
    legendgroup: one.group,
    showlegend: shown,
    name: plain(one.latest ? `${one.label}  ${one.latest}` : one.label),
    visible: one.hidden ? 'legendonly' : true,
  };
}

function lines(one, chart) {
  const { color, dash, mark } = one.style;
  const fit = (values) => (chart.log ? positive(values) : values);
  const y = fit(chart.points ? one.y : smooth(one.y, chart.smoothing));
  const behind = { ...common(one, false), hoverinfo: 'skip', mode: 'lines' };
  const traces = [];
  if (one.low) {
    const floor = Math.min(...positive([...one.low, ...y]).filter(Boolean)); // avoids a hole in the band on a log axis
    const low = chart.log ? one.low.map((v) => (v === null || v > 0 ? v : floor)) : one.low;
    const thin = { ...behind, line: { width: 0, color } };
    const fillcolor = faint(color, chart.smoothing ? 0.1 : 0.16);
    traces.push({ ...thin, y: low }, { ...thin, y: fit(one.high), fill: 'tonexty', fillcolor });
  }
  if (chart.smoothing && !chart.points)
    traces.push({ ...behind, y: fit(one.y), line: { width: 1, color: faint(color, 0.32) } });
  const alone = lonely(y);
  const few = alone.some(Boolean);
  const marked = chart.points ? (one.joined ? 'lines+markers' : 'markers') : mark || few ? 'lines+markers' : 'lines';
  const size = chart.points ? 7 : few && !mark ? alone.map((so) => (so ? 6 : 0)) : 6;
  traces.push({
    ...common(one, chart.series.length > 1),
    y,
    customdata: one.y,
    mode: marked,
    line: { width: 1.8, color, dash },
    marker: { color, size, symbol: mark ?? 'circle', maxdisplayed: chart.points || few ? 0 : 9 },
    hovertemplate: `%{y:.4~g}${chart.smoothing ? ' (raw %{customdata:.4~g})' : ''}<extra>${plain(one.label)}</extra>`,
  });
  return traces;
}

function stacks(chart) {
  return chart.rows.flatMap((_, row) =>
    onOneGrid(chart.series.filter((one) => one.row === row)).map((one) => ({
      ...common(one, one.first),
      y: smooth(one.y, chart.smoothing),
      mode: 'lines',
      stackgroup: `row${row}`,
      yaxis: row ? `y${row + 1}` : 'y',
      line: { width: 1, color: one.style.color },
      fillcolor: faint(one.style.color, 0.45),
      hovertemplate: `%{y:.3~g}<extra>${plain(one.label)}</extra>`,
    })),
  );
}

const pen = document.createElement('canvas').getContext('2d');

/** Returns the number of lines of the legend's entries, wrapped as Plotly does. */
function legendLines(entries, width) {
  pen.font = `${SMALL}px ${FONT}`;
  let lines = entries.length ? 1 : 0;
  let used = 0;
  for (const { name } of entries) {
    const wide = 46 + pen.measureText(name).width; // plus its line sample and gaps
    if (used && used + wide > width) [lines, used] = [lines + 1, 0];
    used += wide;
  }
  return Math.min(MOST_LINES, lines);
}

function layout(box, chart, traces) {
  const rows = chart.stacked ? Math.max(1, chart.rows.length) : 1;
  const top = 8 + ENTRY * legendLines(traces.filter((one) => one.showlegend), box.clientWidth - LEFT - RIGHT);
  const grid = pageColor('grid');
  const axis = { gridcolor: grid, linecolor: pageColor('line'), zerolinecolor: grid, tickfont: { size: SMALL } };
  const title = (words, standoff) => ({ text: plain(words), standoff, font: { size: SMALL } });
  const font = { color: pageColor('text'), size: 12 };
  const made = {
    width: box.clientWidth,
    height: HEIGHT + ROW * (rows - 1) + top - 8,
    margin: { l: LEFT, r: RIGHT, t: top, b: BOTTOM },
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: FONT, size: 12, color: pageColor('muted') },
    showlegend: top > 8,
    legend: {
      ...{ orientation: 'h', x: 0, y: 1, yref: 'container', yanchor: 'top', itemsizing: 'constant' },
      maxheight: ENTRY * (MOST_LINES + 0.5), // more lines scroll
      font: { ...font, size: SMALL },
    },
    hovermode: 'x unified',
    hoverlabel: { bgcolor: pageColor('surface'), bordercolor: pageColor('line'), font },
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    xaxis: {
      ...axis,
      title: title(chart.xTitle, 6),
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
      ...(rows > 1 ? { title: title(chart.rows[row].slice(0, 16), 4) } : {}),
    };
  }
  return made;
}

function range({ range: [from, to], extent }) {
  const pad = (extent[1] - extent[0]) * 0.02 || 0.5;
  return { range: [from ?? extent[0] - pad, to ?? extent[1] + pad], autorange: false };
}

/** `hide(keys)`: series hidden by the legend now; `zoom(from, to)`; `unzoom()`; `click(x, run)`. */
function listen(box, { zoom, unzoom, click, hide }) {
  box.dataset.listens = 'yes';
  box.on('plotly_relayout', (change) => {
    const [from, to] = [change['xaxis.range[0]'], change['xaxis.range[1]']];
    if (from !== undefined && to !== undefined) zoom(from, to);
  });
  box.on('plotly_restyle', () => {
    hide(new Set(box.data.filter((one) => one.visible === 'legendonly').map((one) => one.meta.key)));
  });
  let waiting = 0; // timer: a click may be the first half of a double-click,
  let doubled = 0; // whose second click event comes after the double-click event
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
    waiting = setTimeout(() => box.isConnected && click(nearest.x, nearest.data.meta.run), DOUBLE);
  });
}

/**
 * The picture: for each system a panel, all on the same scales, of the time that replies took as the update went on. A line for
 * the median of each slice of time, bars up to the longest, red marks for requests that failed.
 */
import { machineLine } from './report.mjs';

const PANEL = { width: 400, height: 150, left: 52, right: 14, top: 34, bottom: 30 };
const COLUMNS = 2;
const HEAD = 64;
const FOOT = 30;
/** Milliseconds: the axis. */
const LOW = 0.1;
const HIGH = 10_000;
const TICKS = [0.1, 1, 10, 100, 1000, 10_000];
const INK = {
  text: '#1f2328',
  faint: '#59636e',
  grid: '#d8dee4',
  bar: '#8fb8e8',
  line: '#0b57b0',
  bad: '#c4162a',
  mark: '#59636e',
};

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function label(number) {
  return number >= 1000 ? `${number / 1000} s` : `${number} ms`;
}

/** Text in lines that fit a panel, at most five. */
function lines(text) {
  const folded = text.match(/.{1,62}(\s|$)/g) ?? [text.slice(0, 62)];
  return folded.slice(0, 5);
}

function panel(system, column, row) {
  const { left, right, top, bottom, width, height } = PANEL;
  const x0 = column * width + left;
  const y0 = HEAD + row * height + top;
  const inner = { width: width - left - right, height: height - top - bottom };
  const parts = [
    `<text x="${x0}" y="${y0 - 16}" class="title">${escaped(system.title)}</text>`,
    `<text x="${x0}" y="${y0 - 4}" class="small">${escaped(system.how.replaceAll('`', ''))}</text>`,
  ];
  const { timeline } = system;
  if (timeline === undefined) {
    lines(`Not measured: ${system.reason}`).forEach((line, i) => {
      parts.push(`<text x="${x0}" y="${y0 + 20 + 14 * i}" class="small">${escaped(line)}</text>`);
    });
    return parts.join('\n');
  }
  const { firstMs, sliceMs, p50, longest, failed } = timeline;
  const endMs = firstMs + sliceMs * p50.length;
  const x = (at) => x0 + ((at - firstMs) / (endMs - firstMs)) * inner.width;
  const y = (took) => {
    const share = Math.log(Math.min(HIGH, Math.max(LOW, took)) / LOW) / Math.log(HIGH / LOW);
    return y0 + inner.height * (1 - share);
  };
  const f = (number) => number.toFixed(1);
  for (const tick of TICKS) {
    parts.push(
      `<line x1="${x0}" x2="${x0 + inner.width}" y1="${f(y(tick))}" y2="${f(y(tick))}" class="grid"/>`,
    );
    parts.push(
      `<text x="${x0 - 6}" y="${f(y(tick) + 3.5)}" class="tick" text-anchor="end">${label(tick)}</text>`,
    );
  }
  for (let second = Math.ceil(firstMs / 1000); second * 1000 <= endMs; second++) {
    const at = f(x(second * 1000));
    parts.push(
      `<line x1="${at}" x2="${at}" y1="${y0 + inner.height}" y2="${y0 + inner.height + 3}" class="axis"/>`,
    );
    parts.push(
      `<text x="${at}" y="${y0 + inner.height + 14}" class="tick" text-anchor="middle">${second} s</text>`,
    );
  }
  const barWidth = Math.max(0.6, (inner.width * sliceMs) / (endMs - firstMs) - 0.2);
  const bars = [];
  const medians = [];
  let isDrawing = false;
  for (let i = 0; i < p50.length; i++) {
    const at = x(firstMs + sliceMs * (i + 0.5));
    if (p50[i] === null) {
      isDrawing = false;
      continue;
    }
    bars.push(`M${f(at)} ${f(y(p50[i]))}V${f(y(longest[i]))}`);
    medians.push(`${isDrawing ? 'L' : 'M'}${f(at)} ${f(y(p50[i]))}`);
    isDrawing = true;
  }
  parts.push(`<path d="${bars.join('')}" class="bars" stroke-width="${f(barWidth)}"/>`);
  parts.push(`<path d="${medians.join('')}" class="median"/>`);
  parts.push(`<line x1="${f(x(0))}" x2="${f(x(0))}" y1="${y0}" y2="${y0 + inner.height}" class="update"/>`);
  const bad = failed.flatMap((count, i) => (count > 0 ? [f(x(firstMs + sliceMs * (i + 0.5)))] : []));
  for (const at of bad) parts.push(`<path d="M${at} ${y0 + 1}v9" class="failed"/>`);
  const total = failed.reduce((sum, count) => sum + count, 0);
  if (total > 0)
    parts.push(
      `<text x="${x0 + inner.width}" y="${y0 - 4}" class="failures" text-anchor="end">${total} failed</text>`,
    );
  return parts.join('\n');
}

export function picture({ machine, options, systems }) {
  const rows = Math.ceil(systems.length / COLUMNS);
  const width = PANEL.width * COLUMNS;
  const height = HEAD + PANEL.height * rows + FOOT;
  const style = `
text { font: 11px system-ui, sans-serif; fill: ${INK.text}; }
.head { font-size: 15px; font-weight: 600; } .title { font-size: 12px; font-weight: 600; }
.small { font-size: 10px; fill: ${INK.faint}; } .tick { font-size: 9.5px; fill: ${INK.faint}; }
.failures { font-size: 10px; fill: ${INK.bad}; }
.grid { stroke: ${INK.grid}; stroke-width: 1; } .axis { stroke: ${INK.faint}; stroke-width: 1; }
.bars { stroke: ${INK.bar}; fill: none; } .median { stroke: ${INK.line}; stroke-width: 1.2; fill: none; }
.update { stroke: ${INK.mark}; stroke-width: 1; stroke-dasharray: 3 3; } .failed { stroke: ${INK.bad}; stroke-width: 1.6; }`;
  const legendY = 46;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>Time of HTTP replies through an update, by system</title>
<style>${style}
</style>
<rect width="${width}" height="${height}" fill="#ffffff"/>
<text x="14" y="24" class="head">How long replies took while a new version came</text>
<path d="M14 ${legendY - 4}h18" class="median"/><text x="37" y="${legendY}" class="small">median of ${systems.find(({ timeline }) => timeline)?.timeline.sliceMs ?? 25} ms</text>
<path d="M134 ${legendY - 9}v10" class="bars" stroke-width="6"/><text x="143" y="${legendY}" class="small">up to the longest</text>
<path d="M236 ${legendY - 9}v10" class="failed"/><text x="243" y="${legendY}" class="small">failed requests</text>
<path d="M328 ${legendY - 9}v10" class="update"/><text x="335" y="${legendY}" class="small">the update begins; time since then, and of replies (log), on the same scales</text>
${systems.map((system, i) => panel(system, i % COLUMNS, Math.floor(i / COLUMNS))).join('\n')}
<text x="14" y="${height - 12}" class="small">${escaped(machineLine(machine))}; ${options.connections} clients, ${options.rate} requests a second${options.runs > 1 ? `; of ${options.runs} runs the one in the middle` : ''}</text>
</svg>
`;
}

/** The result as Markdown: what clients saw, what was kept and what it cost, and ratios to ours. */
import { EVENT_MS } from './programs/event-streams.mjs';

const MIB = 2 ** 20;
const NOTHING = '–';

function ms(number) {
  if (number === undefined) return NOTHING;
  return number < 10 ? number.toFixed(1) : String(Math.round(number));
}

/** The same in every run, or what each run had. */
function each(values) {
  return new Set(values).size === 1 ? String(values[0]) : values.join(' / ');
}

function figure(figures, show = ms) {
  if (figures === undefined) return NOTHING;
  return figures.median === figures.highest
    ? show(figures.median)
    : `${show(figures.median)} (${show(figures.highest)})`;
}

function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}

const PROXIES = `
Of a proxy it is the proxy that is replaced: version, counter, CPU time and memory are its own; the service behind it stays as it is.
`;

const named = ({ title, how }) => `**${title}**: ${how}`;

function kinds(runs) {
  const sums = {};
  for (const { failures } of runs)
    for (const [kind, count] of Object.entries(failures)) sums[kind] = (sums[kind] ?? 0) + count;
  const list = Object.entries(sums).map(([kind, count]) => `${kind} ${count}`);
  return list.length === 0 ? '' : ` (${list.join(', ')})`;
}

/** How many of the connections are there. */
function alive({ count, alive: living }) {
  return count === 0 ? NOTHING : `${living}/${count}`;
}

/** The same, and who serves those that are: the service itself says so, and of a proxy its old process does by being there. */
function served(seen, isOldGone, system) {
  const text = alive(seen);
  if (seen.count === 0 || seen.alive === 0 || system.bringsNoVersion) return text;
  if (system.isProxy) return `${text}, ${isOldGone ? 'new' : 'in the old process'}`;
  const isNew = seen.by['2'] ?? 0;
  if (isNew === seen.alive) return `${text}, new`;
  return isNew === 0 ? `${text}, old` : `${text}, ${isNew} new`;
}

function seenRow(system) {
  const { runs, summary } = system;
  const hasHttp = runs[0].requests > 0;
  const hasTcp = runs[0].tcp.count > 0;
  const hasStreams = runs[0].streams.count > 0;
  const bytes = runs.map(({ tcp }) => `${tcp.lost}+${tcp.wrong}`);
  return [
    named(system),
    hasHttp ? each(runs.map(({ failed }) => failed)) + kinds(runs) : NOTHING,
    hasHttp ? each(runs.map(({ busyClosed }) => busyClosed)) : NOTHING,
    each(runs.map(({ idle, isOldGone }) => served(idle, isOldGone, system))),
    hasTcp ? each(runs.map(({ tcp, isOldGone }) => served(tcp, isOldGone, system))) : NOTHING,
    hasTcp ? each(bytes) : NOTHING,
    each(runs.map(({ streams, isOldGone }) => served(streams, isOldGone, system))),
    hasStreams ? each(runs.map(({ streams }) => streams.ended)) : NOTHING,
    hasStreams ? each(runs.map(({ streams }) => `${streams.missed}+${streams.repeated}`)) : NOTHING,
    figure(summary.gapMs),
    figure(summary.gapBeforeMs),
    figure(summary.longestMs),
    figure(summary.tcpLongestMs),
    figure(summary.streamGapMs),
    `${figure(summary.p50Before)}, ${figure(summary.p99Before)}`,
    `${figure(summary.p50During)}, ${figure(summary.p99During)}`,
  ];
}

function keptRow(system) {
  const { runs, summary } = system;
  const value = (name) => each(runs.map((run) => run[name] ?? NOTHING));
  const mib = (number) => String(Math.round(number / MIB));
  const seconds = (number) => number.toFixed(2);
  return [
    named(system),
    value('counter') + (system.isProxy ? ` (its own: ${system.counts})` : ''),
    value('cache'),
    figure(summary.newVersionMs),
    figure(summary.oldVersionMs),
    figure(summary.blackoutMs),
    figure(summary.cpuSeconds, seconds),
    figure(summary.cpuExtraSeconds, seconds),
    figure(summary.peakBytesBefore, mib),
    figure(summary.peakBytes, mib),
    figure(summary.peakPrivateBytes, mib),
  ];
}

const RATIOS = [
  ['longest gap', 'gapMs'],
  ['longest wait', 'longestMs'],
  ['longest wait, TCP', 'tcpLongestMs'],
  ['longest gap of a stream', 'streamGapMs'],
  ['p99 during', 'p99During'],
  ['new version serves', 'newVersionMs'],
  ['CPU during', 'cpuSeconds'],
  ['peak memory', 'peakBytes'],
];

function ratioRow(system, ours) {
  return [
    `**${system.title}**`,
    ...RATIOS.map(([, name]) => {
      const [theirs, own] = [system.summary[name]?.median, ours.summary[name]?.median];
      return theirs === undefined || own === undefined || own === 0 ? NOTHING : (theirs / own).toFixed(2);
    }),
  ];
}

export function machineLine({ cpu, cores, memoryGib, kernel, node }) {
  return `${cpu}, ${cores} cores, ${memoryGib} GiB, Linux ${kernel}, Node ${node}`;
}

const subscribers = ({ version, reconnectMs }) => `
Subscribers are the library's (${version}) with its own delay: it connects again ${reconnectMs / 1000} s after its stream has ended, and that is most of the longest gap where streams end.
What a client would see that connects again at once is in the column "longest gap without a reply". An event is missed when it was told while its subscriber had no stream.
`;

function load({ connections, rate, idle, tcp, streams, runs, windowMs, cacheBytes }) {
  return [
    `${runs} runs; ${connections} busy HTTP keep-alive clients, together ${rate} requests a second, replies of 1 KiB`,
    `${idle} idle connections`,
    `${tcp} TCP clients of numbered bytes`,
    ...(streams > 0
      ? [`${streams} subscribers of event streams, ${1000 / EVENT_MS} events a second each`]
      : []),
    `${Math.round(cacheBytes / MIB)} MiB of memory in the service`,
    `${windowMs / 1000} s before and ${windowMs / 1000} s from the begin of the update`,
  ].join('; ');
}

export function markdown({ machine, options, subscriber, systems }) {
  const measured = systems.filter(({ available }) => available);
  const ours = measured.find(({ name }) => name === 'ours');
  const programs = options.streams > 0 ? [...systems, subscriber] : systems;
  const versions = programs.map(({ version }) => version).filter(Boolean);
  const parts = [
    `${[machineLine(machine), ...new Set(versions)].join('; ')}\n\n${load(options)}. Times in ms; several runs: median (highest), or all.\n`,
    `What clients saw\n\n${table(
      [
        'system',
        'failed requests',
        'busy connections closed',
        'idle connections alive',
        'TCP connections alive',
        'TCP bytes lost+wrong',
        'event streams alive',
        'streams ended',
        'events missed+repeated',
        'longest gap without a reply',
        'the same before',
        'longest wait',
        'longest wait, TCP',
        'longest gap of a stream',
        'p50, p99 before',
        'p50, p99 during',
      ],
      measured.map(seenRow),
    )}${options.streams > 0 ? subscribers(subscriber) : ''}`,
    `What was kept, and what it cost\n\n${table(
      [
        'system',
        'counter in memory',
        'cache in memory',
        'first reply of the new version',
        'last reply of the old one',
        'blackout, its own account',
        'CPU s during',
        'of it more than before',
        'peak RSS before, MiB',
        'peak RSS during',
        'of it private',
      ],
      measured.map(keptRow),
    )}${measured.some(({ isProxy }) => isProxy) ? PROXIES : ''}`,
  ];
  if (ours !== undefined && measured.length > 1)
    parts.push(
      `As multiples of ours (medians)\n\n${table(
        ['system', ...RATIOS.map(([title]) => title)],
        measured.filter((system) => system !== ours).map((system) => ratioRow(system, ours)),
      )}`,
    );
  const absent = [...systems, subscriber].filter(({ reason }) => reason !== undefined);
  if (absent.length > 0)
    parts.push(
      `Not measured\n\n${absent.map((system) => `- ${named(system)}: ${system.reason}\n`).join('')}`,
    );
  return parts.join('\n');
}

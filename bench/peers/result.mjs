/** The result of all runs as one object: of each system its runs and their summary; and the machine. */
import { arch, cpus, release, totalmem } from 'node:os';
import { median } from '../processes.mjs';
import { eventSource, RECONNECT_MS } from './event-source.mjs';

export function thisMachine() {
  return {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    arch: arch(),
    kernel: release(),
    node: process.versions.node,
  };
}

/** Figures of which a system's summary has the median and the highest of its runs. */
const figuresOf = (windowMs) => ({
  gapMs: (run) => run.gapMs,
  gapBeforeMs: (run) => run.gapBeforeMs,
  longestMs: (run) => run.longestMs,
  p50Before: (run) => run.before?.p50,
  p99Before: (run) => run.before?.p99,
  p50During: (run) => run.during?.p50,
  p99During: (run) => run.during?.p99,
  tcpLongestMs: (run) => (run.tcp.count > 0 ? run.tcp.longest : undefined),
  streamGapMs: (run) => run.streams.gapMs,
  newVersionMs: (run) => run.newVersionMs,
  oldVersionMs: (run) => run.oldVersionMs,
  commandMs: (run) => run.commandMs,
  blackoutMs: (run) => run.blackoutMs,
  cpuSeconds: (run) => run.cpuDuring,
  cpuExtraSeconds: (run) => Math.max(0, run.cpuDuring - run.cpuBefore * (run.duringMs / windowMs)),
  peakBytesBefore: (run) => run.peakBytesBefore,
  peakBytes: (run) => run.peakBytes,
  peakPrivateBytes: (run) => run.peakPrivateBytes,
});

function summary(runs, windowMs) {
  const figures = {};
  for (const [name, of] of Object.entries(figuresOf(windowMs))) {
    const numbers = runs.map(of).filter((number) => number !== undefined);
    if (numbers.length > 0) figures[name] = { median: median(numbers), highest: Math.max(...numbers) };
  }
  return figures;
}

export function resultOf({ machine, options, systems, runs, reasons }) {
  return {
    machine,
    options,
    subscriber: {
      title: eventSource.title,
      how: eventSource.how,
      version: eventSource.version,
      reconnectMs: RECONNECT_MS,
      reason: reasons.get(eventSource),
    },
    systems: systems.map((system) => {
      const all = runs.get(system);
      // The picture shows the run in the middle.
      const shown = all.toSorted((a, b) => (a.longestMs ?? 0) - (b.longestMs ?? 0))[
        Math.floor(all.length / 2)
      ];
      return {
        name: system.name,
        title: system.title,
        how: system.how,
        version: system.version,
        isProxy: system.isProxy === true,
        bringsNoVersion: system.bringsNoVersion === true,
        counts: system.counts ?? 'requests',
        loads: system.loads,
        available: all.length > 0,
        reason: reasons.get(system),
        summary: summary(all, options.windowMs),
        runs: all.map(({ timeline: _, ...run }) => run),
        timeline: shown?.timeline,
      };
    }),
  };
}

/** What people read: the status as a table, an update as a few lines. */
import type { Preservation } from '../daemon/agents.js';
import type { KexecResult } from '../daemon/kernel-update.js';
import type { LuodStatus, SessionStatus } from '../daemon/luod-status.js';
import type { Prepared, ServiceStatus } from '../daemon/service.js';
import type { SharedFlbStatus } from '../daemon/shared-flbs.js';
import type { UpdateResult } from '../daemon/update.js';
import type { HistoryEntry } from '../daemon/update-history.js';
import type { GroupUpdateResult } from '../daemon/worker-group.js';
import type { KernelFact } from '../linux/kernel-facts.js';
import { bad, good, heading, state } from './paint.js';

export function statusTable(status: LuodStatus): string {
  const lines = [
    `luod ${status.version}, pid ${status.pid}, up ${age(status.uptimeSeconds)}, ${mebibytes(status.memoryBytes)}, holds ${status.heldFds} descriptors, ${status.socket}`,
  ];
  if (status.services.length > 0) lines.push('', servicesTable(status.services).trimEnd());
  for (const { name, lingering } of status.services) {
    for (const { pid, generation, connections, ageSeconds } of lingering)
      lines.push(
        '',
        `${name}: generation ${generation} (pid ${pid}) still serves ${connections} connections that could not cross, for ${age(ageSeconds)}`,
      );
  }
  for (const { name, worker, prepared } of status.services) {
    // A luod from before there was any says nothing of it.
    if (prepared)
      lines.push('', preparedSummary({ ...prepared, service: name }, worker?.group ?? name).trimEnd());
  }
  for (const { name, lastUpdate, watch } of status.services) {
    if (lastUpdate !== null) lines.push('', `last update of ${name}: ${updateSummary(lastUpdate).trimEnd()}`);
    // A luod from before there was a watch says nothing of it.
    if (!watch) continue;
    const back =
      watch.goesBackTo === null
        ? 'there is no other command to go back to'
        : `else back to '${watch.goesBackTo.join(' ')}'`;
    lines.push(`  watched for ${age(watch.secondsLeft)} more; ${back}`);
  }
  return `${lines.join('\n')}\n`;
}

export function servicesTable(services: readonly ServiceStatus[]): string {
  if (services.length === 0) return 'luod runs no program\n';
  const rows = services.map((service) => [
    service.name,
    service.state,
    String(service.pid ?? '-'),
    String(service.generation),
    age(service.uptimeSeconds),
    String(service.restarts),
    service.usesLiveupdate
      ? service.held.map(({ session }) => session).join(', ') || '-'
      : 'does not use liveupdate',
  ]);
  const head = ['SERVICE', 'STATE', 'PID', 'GENERATION', 'UP', 'RESTARTS', 'HELD'];
  return `${columns([head, ...rows]).join('\n')}\n`;
}

export function updateSummary(result: UpdateResult): string {
  const { phases } = result;
  if (!result.ok) {
    const now =
      result.afterCommit !== undefined
        ? `${bad('bad after the commit')}: ${NOW[result.afterCommit]}`
        : result.rolledBack
          ? `${bad('rolled back')}: generation ${result.generation} (pid ${result.fromPid}) serves on`
          : `${bad('failed')}: the program is started again`;
    const lost =
      result.lost === undefined ? '' : `; ${result.lost} connections that it served already ended with it`;
    return `${result.service}: ${now}${lost}\nreason: ${result.error?.message} (${result.error?.code} in ${result.error?.phase})\n`;
  }
  if (!result.carried) {
    return `${result.service}: restarted, pid ${result.fromPid} -> ${result.toPid}; it does not use liveupdate, so nothing was carried\n`;
  }
  const parts = Object.entries(phases).map(([phase, ms]) => `${phase} ${ms} ms`);
  const lines = [
    `${result.service}: ${good(`generation ${result.generation}`)}, pid ${result.fromPid} -> ${result.toPid}, ${result.connections} connections moved, blackout ${result.blackoutMs} ms`,
    `  ${parts.join(', ')}; ${result.files} files, ${result.bytes} bytes`,
  ];
  if (result.draining > 0)
    lines.push(
      `  ${result.draining} connections could not cross: pid ${result.fromPid} serves them to their end`,
    );
  if (result.dropped !== undefined && result.dropped.length > 0)
    lines.push(`  dropped: ${result.dropped.join(', ')}`);
  for (const line of result.unfinished ?? []) lines.push(`  unfinished: ${line}`);
  return `${lines.join('\n')}\n`;
}

/** @param target What the words that end it are said of. */
export function preparedSummary(
  { service, generation, pid, secondsLeft }: Omit<Prepared, 'ok' | 'servingPid'>,
  target: string,
): string {
  const waits = `${good(`generation ${generation} is prepared`)} (pid ${pid}), for ${age(secondsLeft)}`;
  return `${service}: ${waits}: 'luoctl cut ${target}' lets it take over, 'luoctl cancel ${target}' gives it up\n`;
}

const NOW = {
  rolledBack: 'the command before runs again',
  restarted: 'the program is started again',
  servesOn: 'it serves on',
} as const;

const OUTCOMES = {
  ok: 'ok',
  rolledBack: 'rolled-back',
  autoRolledBack: 'auto-rolled-back',
  failed: 'failed',
} as const;

const KINDS = { update: 'update', rollback: 'rollback', autoRollback: 'auto-rollback' } as const;

export function historyTable(entries: readonly HistoryEntry[]): string {
  if (entries.length === 0) return 'no updates yet\n';
  const rows = entries.map((entry) => [
    entry.at,
    KINDS[entry.kind],
    `${entry.fromGeneration} -> ${entry.toGeneration}`,
    OUTCOMES[entry.outcome],
    entry.blackoutMs === null ? '-' : `${entry.blackoutMs} ms`,
    entry.by,
    entry.command.join(' '),
  ]);
  const lines = columns([['WHEN', 'WHAT', 'GENERATION', 'RESULT', 'BLACKOUT', 'BY', 'COMMAND'], ...rows]);
  const reasons = entries.flatMap(({ at, error }) =>
    error === undefined ? [] : [`${at}: ${error.message} (${error.code} in ${error.phase})`],
  );
  return `${[...lines, ...(reasons.length === 0 ? [] : ['', ...reasons])].join('\n')}\n`;
}

/** Of each worker whose turn came, and then how they stand. */
export function groupSummary({ service, workers, ...result }: GroupUpdateResult): string {
  const each = workers.map((worker) =>
    'phases' in worker
      ? updateSummary(worker)
      : `${worker.service}: ${bad('failed')}\nreason: ${worker.error.message} (${worker.error.code})\n`,
  );
  const parts = [
    result.new.length === 0 ? [] : [`new: ${result.new.join(', ')}`],
    result.old.length === 0 ? [] : [`as before: ${result.old.join(', ')}`],
    result.restarted.length === 0 ? [] : [`started again: ${result.restarted.join(', ')}`],
  ];
  // Going back is for some of them only, when the others did not change.
  const done = result.old.length === 0 ? 'all workers are new' : 'done';
  const verdict = result.ok ? good(done) : bad('not all workers are new');
  return `${each.join('')}${service}: ${verdict}; ${parts.flat().join('; ')}\n`;
}

export function sessionsTable(sessions: readonly SessionStatus[]): string {
  if (sessions.length === 0) return 'nothing is kept\n';
  const rows = sessions.map(({ session, service, holder, state: now, ageSeconds, pid, files }) => [
    session,
    service,
    pid === undefined ? '-' : String(pid),
    holder,
    now,
    files === undefined ? '-' : String(files.length),
    age(ageSeconds),
  ]);
  const head = ['SESSION', 'OWNER', 'PID', 'HOLDER', 'STATE', 'FILES', 'AGE'];
  return `${columns([head, ...rows]).join('\n')}\n`;
}

/** @param name Only of sessions of this name. */
export function filesTable(sessions: readonly SessionStatus[], name: string | undefined): string {
  const rows = sessions
    .filter(({ session }) => name === undefined || session === name)
    .flatMap(({ session, service, files = [] }) =>
      files.map(({ token, kind, details }) => [
        session,
        service,
        token,
        kind,
        Object.entries(details)
          .map(([key, value]) => `${key} ${value}`)
          .join(', '),
      ]),
    );
  if (rows.length === 0) return 'no files\n';
  return `${columns([['SESSION', 'OWNER', 'TOKEN', 'KIND', 'DETAILS'], ...rows]).join('\n')}\n`;
}

export function flbsTable(flbs: readonly SharedFlbStatus[]): string {
  if (flbs.length === 0) return 'no FLBs\n';
  const rows = flbs.map(({ flb, uid, bytes, files, registered, ageSeconds }) => [
    flb,
    String(uid),
    String(bytes),
    String(files),
    registered ? 'yes' : 'no',
    age(ageSeconds),
  ]);
  return `${columns([['FLB', 'UID', 'BYTES', 'FILES', 'REGISTERED', 'AGE'], ...rows]).join('\n')}\n`;
}

export function preservationSummary({ ready, late }: Preservation): string {
  if (ready.length + late.length === 0) return 'nobody is subscribed\n';
  const lines = [`${ready.length} programs are ready: ${ready.join(', ') || '-'}`];
  for (const { id, uid, reason } of late) lines.push(`${bad('late')}: ${id} of uid ${uid}: ${reason}`);
  return `${lines.join('\n')}\n`;
}

export function kexecSummary(result: KexecResult): string {
  const lines = result.services.map(
    ({ service, generation, sessions, memfds }) =>
      `${service}: generation ${generation}, ${sessions.length} sessions, ${memfds} of them in memory files: ${sessions.join(', ') || 'none'}`,
  );
  const { sessions: kept, memfds: memory } = result.clients;
  if (kept > 0) lines.push(`clients: ${kept} sessions, ${memory} memory files`);
  for (const { service, session, what } of result.left) {
    lines.push(`left behind: ${service}: ${session === undefined ? '' : `${session}: `}${what}`);
  }
  if (result.error !== undefined) {
    lines.push(
      `not done, and everything goes on as it was: ${result.error.message} (${result.error.code} in ${result.error.phase})`,
    );
  } else if (result.dryRun) lines.push('a dry run: nothing was changed');
  else {
    const parts = Object.entries(result.phases).map(([phase, ms]) => `${phase} ${ms} ms`);
    lines.push(`leaving this kernel: ${parts.join(', ')}`);
  }
  return `${lines.join('\n')}\n`;
}

export function factsTable(facts: readonly KernelFact[]): string {
  const rows = facts.map(({ name, verdict, found }) => [verdict, name, found]);
  const lines = columns(rows, false);
  const advice = facts.filter((fact) => fact.advice !== undefined);
  if (advice.length === 0) return `${lines.join('\n')}\n\nthis kernel can be live-updated: luoctl kexec\n`;
  return `${lines.join('\n')}\n\n${advice.map((fact) => `${fact.name}: ${fact.advice}`).join('\n')}\n`;
}

/** The first row is the heading, unless it is told that there is none. */
function columns(rows: readonly (readonly string[])[], hasHeading = true): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row, line) => {
    const isHeading = hasHeading && line === 0;
    const cells = row.map((cell, column) => {
      // Nothing stands behind the last one.
      const padded = column === row.length - 1 ? cell : cell.padEnd(widths[column] as number);
      return isHeading ? padded : state(padded);
    });
    return isHeading ? heading(cells.join('  ')) : cells.join('  ').trimEnd();
  });
}

function age(seconds: number): string {
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${seconds % 60}s`;
  return `${Math.floor(seconds / 3600)}h${Math.floor((seconds % 3600) / 60)}m`;
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / (1 << 20))} MiB`;
}

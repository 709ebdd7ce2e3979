/** What people read: the status as a table, an update as a few lines. */
import type { LuodStatus } from '../daemon/luod.js';
import type { UpdateResult } from '../daemon/update.js';

export function statusTable(status: LuodStatus): string {
  const lines = [
    `luod ${status.version}, pid ${status.pid}, up ${age(status.uptimeSeconds)}, ${mebibytes(status.memoryBytes)}, holds ${status.heldFds} descriptors, ${status.socket}`,
    '',
    ...columns([
      ['SERVICE', 'STATE', 'PID', 'GENERATION', 'UP', 'RESTARTS', 'HELD'],
      ...status.services.map((service) => [
        service.name,
        service.state,
        String(service.pid ?? '-'),
        String(service.generation),
        age(service.uptimeSeconds),
        String(service.restarts),
        service.usesLiveupdate
          ? service.held.map(({ session }) => session).join(', ') || '-'
          : 'does not use liveupdate',
      ]),
    ]),
  ];
  for (const { name, lastUpdate } of status.services) {
    if (lastUpdate !== null) lines.push('', `last update of ${name}: ${updateSummary(lastUpdate).trimEnd()}`);
  }
  return `${lines.join('\n')}\n`;
}

export function updateSummary(result: UpdateResult): string {
  const { phases } = result;
  if (!result.ok) {
    const now = result.rolledBack
      ? `rolled back: generation ${result.generation} (pid ${result.fromPid}) serves on`
      : 'failed: the program is started again';
    return `${result.service}: ${now}\nreason: ${result.error?.message} (${result.error?.code} in ${result.error?.phase})\n`;
  }
  if (!result.carried) {
    return `${result.service}: restarted, pid ${result.fromPid} -> ${result.toPid}; it does not use liveupdate, so nothing was carried\n`;
  }
  const parts = Object.entries(phases).map(([phase, ms]) => `${phase} ${ms} ms`);
  const lines = [
    `${result.service}: generation ${result.generation}, pid ${result.fromPid} -> ${result.toPid}, ${result.connections} connections moved, blackout ${result.blackoutMs} ms`,
    `  ${parts.join(', ')}; ${result.files} files, ${result.bytes} bytes`,
  ];
  if (result.dropped !== undefined && result.dropped.length > 0)
    lines.push(`  dropped: ${result.dropped.join(', ')}`);
  for (const line of result.unfinished ?? []) lines.push(`  unfinished: ${line}`);
  return `${lines.join('\n')}\n`;
}

function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] as number))
      .join('  ')
      .trimEnd(),
  );
}

function age(seconds: number): string {
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${seconds % 60}s`;
  return `${Math.floor(seconds / 3600)}h${Math.floor((seconds % 3600) / 60)}m`;
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / (1 << 20))} MiB`;
}

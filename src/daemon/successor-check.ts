/** Whether another version of luod can take over what the keeper has: asked of that version itself, before it is too late. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import { CLIENT_GROUP, clientRecord, LISTENER_GROUP } from './client.js';
import { FD_STORE_GROUP } from './fd-store.js';
import { GROUP, parseItems } from './host-sessions.js';
import { KeeperLink, type KeptItem } from './keeper-link.js';
import { parseService, SERVICE_GROUP } from './service-record.js';
import { FLB_GROUP, parseFlb } from './shared-flbs.js';

const CHECK_MS = 20_000;
/** Of what it has to say, as much as a person reads. */
const SAID_BYTES = 2000;

/**
 * Runs `script check-handover`, which reads everything and takes nothing.
 * @throws {LiveUpdateError} EPROTO with what it said, when it is no luod, cannot read what is kept, or takes too long.
 */
export async function checkSuccessor(script: string, keeper: string): Promise<void> {
  const child = spawn(process.execPath, [script, 'check-handover', '--keeper', keeper], {
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: CHECK_MS,
    killSignal: 'SIGKILL',
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_BYTES);
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  if (code === 0) return;
  const how = signal === null ? `ended with ${code}` : `was killed by ${signal}`;
  throw new LiveUpdateError('EPROTO', `${script} cannot take over: it ${how}: ${said.trim()}`, {
    operation: 'self-update',
  });
}

/** What `check-handover` does. @returns how many sessions there are. @throws {LiveUpdateError} EINVAL for what is not understood. */
export async function checkHandover(keeper: string): Promise<number> {
  const items = await KeeperLink.look(keeper);
  const groups = new Map<string, KeptItem[]>();
  for (const item of items) {
    const own = groups.get(item.group);
    if (own === undefined) groups.set(item.group, [item]);
    else own.push(item);
  }
  let sessions = 0;
  for (const [group, own] of groups) {
    if (group.startsWith(GROUP)) {
      parseItems(own);
      sessions++;
    } else if (group.startsWith(SERVICE_GROUP)) parseService(own);
    else if (group.startsWith(FLB_GROUP)) for (const item of own) parseFlb(item.record);
    else if (group.startsWith(CLIENT_GROUP)) for (const item of own) clientRecord.parse(item.record);
    else if (group !== LISTENER_GROUP && group !== FD_STORE_GROUP) {
      throw new LiveUpdateError('EINVAL', `'${group}' is nothing that this version knows`);
    }
    for (const { fds } of own) for (const fd of fds) closeFd(fd);
  }
  return sessions;
}

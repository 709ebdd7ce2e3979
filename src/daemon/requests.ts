/** What may be asked of luod, checked at the door. One JSON object a line; every request is answered by a reply. */

import { LiveUpdateError } from '../core/errors.js';
import { healthWords } from './health.js';
import { type Infer, z } from './lazy-zod.js';
import { requestId } from './session-requests.js';
import { MAX_WORKERS } from './worker-names.js';

const milliseconds = z.number().int().positive().max(86_400_000);

const id = requestId;

/** A client's; an image's is read before it gets here (image-messages.ts). */
const hello = z.object({
  type: z.literal('hello'),
  id,
  /** The version that the client speaks, or those among which luod may choose. */
  protocol: z.union([z.number().int(), z.array(z.number().int()).min(1).max(100)]),
  /** For people: who asks. */
  client: z.string().max(200).optional(),
});

/** A service, or a group of workers. */
const target = z.string().max(100).optional();

const status = z.object({ type: z.literal('status'), id, service: target });

const services = z.object({ type: z.literal('services'), id, service: target });

const sessions = z.object({ type: z.literal('sessions'), id });

const list = z.object({ type: z.literal('list'), id });

/** Checked by the contract itself. */
const flbName = z.string().max(1000);

const registerFlb = z.object({
  type: z.literal('register_flb'),
  id,
  name: flbName,
  retry: z.boolean().optional(),
});
const retrieveFlb = z.object({ type: z.literal('retrieve_flb'), id, name: flbName });
const unregisterFlb = z.object({
  type: z.literal('unregister_flb'),
  id,
  name: flbName,
  retry: z.boolean().optional(),
});
const listFlbs = z.object({ type: z.literal('list_flbs'), id });

/** luo-agent's words; their id is a program's, not a request's. */
const agent = z.object({
  type: z.literal('agent'),
  cmd: z.enum(['SUBSCRIBE', 'READY', 'CLAIM']),
  id: z.string().max(1000),
});

const preserve = z.object({ type: z.literal('preserve'), id, timeout: milliseconds.optional() });

/** Events from now on, until the connection ends. */
const subscribe = z.object({ type: z.literal('subscribe'), id });

const deadlines = z
  .object({
    total: milliseconds,
    spawn: milliseconds.optional(),
    preserve: milliseconds.optional(),
    freeze: milliseconds.optional(),
    retrieve: milliseconds.optional(),
    finish: milliseconds.optional(),
    drain: milliseconds.optional(),
  })
  .optional();

const command = z.array(z.string().max(100_000)).min(1).max(1000);

/** Asked again of a luod that took over, a request with the same key is not done twice. */
const key = z.string().max(100).optional();

const update = z.object({
  type: z.literal('update'),
  id,
  service: target,
  command: command.optional(),
  deadlines,
  health: healthWords.optional(),
  /** The answer comes when the watch after the commit is over. */
  wait: z.boolean().optional(),
  /** Of a group: all workers at once. */
  together: z.boolean().optional(),
  key,
});

/** An update up to its cut. */
const prepare = z.object({
  type: z.literal('prepare'),
  id,
  service: target,
  command: command.optional(),
  deadlines,
  health: healthWords.optional(),
  /** How long it may wait for the cut. */
  hold: milliseconds.optional(),
  key,
});

const cut = z.object({
  type: z.literal('cut'),
  id,
  service: target,
  wait: z.boolean().optional(),
  together: z.boolean().optional(),
  key,
});

const cancel = z.object({
  type: z.literal('cancel'),
  id,
  service: target,
  retry: z.boolean().optional(),
});

const path = z.string().min(1).max(4096).startsWith('/');

const start = z.object({
  type: z.literal('start'),
  id,
  service: z.string().min(1).max(100),
  command,
  cwd: path,
  restart: z.enum(['on-failure', 'always', 'never']).optional(),
  maxRestarts: z.number().int().nonnegative().max(1_000_000).optional(),
  fresh: z.boolean().optional(),
  /** So many processes, each a service of its own. */
  workers: z.number().int().positive().max(MAX_WORKERS).optional(),
  health: healthWords.optional(),
  retry: z.boolean().optional(),
});

const stop = z.object({
  type: z.literal('stop'),
  id,
  service: target,
  retry: z.boolean().optional(),
});

const rollback = z.object({
  type: z.literal('rollback'),
  id,
  service: target,
  deadlines,
  health: healthWords.optional(),
  wait: z.boolean().optional(),
  together: z.boolean().optional(),
  key,
});

const history = z.object({ type: z.literal('history'), id, service: z.string().max(100).optional() });

/** Checked by the contract itself, so that a bad one is answered as the kernel answers it. */
const name = z.string().max(1000);

const createSession = z.object({
  type: z.literal('create_session'),
  id,
  name,
  custody: z.enum(['release', 'hold']).optional(),
});

const retrieveSession = z.object({ type: z.literal('retrieve_session'), id, name });

const dropSession = z.object({
  type: z.literal('drop_session'),
  id,
  name,
  uid: z.number().int().nonnegative().optional(),
});

const kexec = z.object({
  type: z.literal('kexec'),
  id,
  kernel: path.optional(),
  initrd: path.optional(),
  cmdline: z.string().max(4096).optional(),
  reuseCmdline: z.boolean().optional(),
  dryRun: z.boolean().optional(),
  dropUnpreservable: z.boolean().optional(),
  deadlines,
});

const selfUpdate = z.object({
  type: z.literal('self_update'),
  id,
  binary: path.optional(),
  /** Asked before: luod was replaced since, which is the answer. */
  retry: z.boolean().optional(),
});

/** The answer to a farewell: it was read. */
const goodbye = z.object({ type: z.literal('goodbye'), id });

const request = z.discriminatedUnion('type', [
  hello,
  status,
  services,
  sessions,
  list,
  subscribe,
  registerFlb,
  retrieveFlb,
  unregisterFlb,
  listFlbs,
  agent,
  preserve,
  start,
  stop,
  update,
  prepare,
  cut,
  cancel,
  rollback,
  history,
  kexec,
  goodbye,
  selfUpdate,
  createSession,
  retrieveSession,
  dropSession,
]);

export type Request = Infer<typeof request>;

/** @throws {LiveUpdateError} EINVAL with what is wrong where. */
export function parseRequest(message: unknown): Request {
  const parsed = request.safeParse(message);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.map(
    ({ path, message: text }) => `${path.join('.') || 'request'}: ${text}`,
  );
  throw new LiveUpdateError('EINVAL', issues.join('; '), { operation: 'request' });
}

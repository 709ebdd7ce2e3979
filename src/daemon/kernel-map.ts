/**
 * How luod's services lie in sessions of the kernel's orchestrator, from one kernel to the next.
 *
 *   session `luod:NAME`, one for each service
 *     token 0    the map: a JSON text (`ServiceMap`)
 *     token 1    what the image handed over, as from image to image (handover/layout.ts)
 *     token 2..  the memfds, in the order of the map's descriptors
 *   session `luod:(clients)`, what clients keep with luod (kernel-clients.ts)
 *   session `luod`
 *     token 0    the index: a JSON text (`KernelIndex`) of the sessions above
 *
 * The map says of each descriptor what stands for it in the next kernel: a memfd's token, or the address of a listener.
 * Tokens begin with a map because a session can be asked for a token, but not which ones it has.
 *
 * A session is retrieved when its service asks for it, not before: closing a retrieved session finishes it, so what luod has
 * not retrieved survives luod. From then on luod holds it until the service has everything.
 */

import { LiveUpdateError } from '../core/errors.js';
import { SESSION_NAME_BYTES } from '../core/names.js';
import { readImageFile, writeImageFile } from '../handover/image-file.js';
import { closeFd } from '../linux/fd.js';
import type { LiveupdateDevice, LiveupdateSession } from '../linux/liveupdate.js';
import { type Infer, type Schema, z } from './lazy-zod.js';

const INDEX_SESSION = 'luod';
export const MAP_TOKEN = 0n;
export const IMAGE_TOKEN = 1n;
export const FIRST_FD_TOKEN = 2n;
/** Counts up when the meaning of a map changes; an older luod refuses what it does not know. */
export const MAP_VERSION = 1;
const listenerAddress = z.union([
  z.object({ path: z.string() }),
  z.object({
    host: z.string(),
    port: z.number(),
    scope: z.number(),
    ipv6Only: z.boolean(),
    reusePort: z.boolean(),
  }),
]);

/** What stands for a descriptor in the next kernel. */
export const descriptorInMap = z.union([
  z.object({ memfd: z.string().regex(/^\d+$/) }),
  z.object({ listener: listenerAddress }),
]);

export const serviceMap = z.object({
  version: z.literal(MAP_VERSION),
  service: z.string(),
  generation: z.number().int().positive(),
  descriptors: z.array(descriptorInMap),
});

const kernelIndex = z.object({
  version: z.literal(MAP_VERSION),
  luod: z.string(),
  savedAt: z.number(),
  services: z.array(
    z.object({
      service: z.string(),
      session: z.string(),
      generation: z.number(),
      command: z.array(z.string()),
      memfds: z.number(),
    }),
  ),
});

/** What one service's session holds. */
export type ServiceMap = Infer<typeof serviceMap>;
/** What luod left to its successor in the next kernel. */
export type KernelIndex = Infer<typeof kernelIndex>;

/** The name of a service's session. @throws {LiveUpdateError} EINVAL when it would be too long. */
export function kernelSessionName(service: string): string {
  const name = `${INDEX_SESSION}:${service}`;
  if (Buffer.byteLength(name) > SESSION_NAME_BYTES) {
    const limit = SESSION_NAME_BYTES - INDEX_SESSION.length - 1;
    throw new LiveUpdateError('EINVAL', `the service's name has more than ${limit} bytes: '${service}'`);
  }
  return name;
}

/** Preserves a JSON text under `token`. @throws {LiveUpdateError} as `LiveupdateSession.preserve`. */
export function preserveText(session: LiveupdateSession, token: bigint, value: object): void {
  const fd = writeImageFile(Buffer.from(JSON.stringify(value)));
  try {
    session.preserve(fd, token);
  } finally {
    closeFd(fd);
  }
}

/** A session of ours that came, or undefined. @throws {LiveUpdateError} EBUSY when another luod has it; EMFILE. */
export function retrieveOurs(device: LiveupdateDevice, name: string): LiveupdateSession | undefined {
  try {
    return device.retrieveSession(name);
  } catch (error) {
    const { code } = LiveUpdateError.from(error);
    if (code === 'ENOENT') return undefined;
    if (code !== 'EINVAL') throw error;
    throw new LiveUpdateError('EBUSY', 'another luod has taken it', { session: name, cause: error });
  }
}

/** A map as it was written. @throws {LiveUpdateError} EINVAL. */
export function parseMap<T>(schema: Schema<T>, bytes: Buffer, session: string): T {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', 'the map is no JSON', { session, cause });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0] ?? { path: [], message: 'not understood' };
  throw new LiveUpdateError(
    'EINVAL',
    `the map is of another version or damaged: ${path.join('.')}: ${message}`,
    {
      session,
    },
  );
}

/** Leaves the index. The session must stay open until the reboot. @throws {LiveUpdateError} as `createSession`, `preserve`. */
export function writeKernelIndex(
  device: LiveupdateDevice,
  index: Omit<KernelIndex, 'version'>,
): LiveupdateSession {
  const session = device.createSession(INDEX_SESSION);
  try {
    preserveText(session, MAP_TOKEN, { version: MAP_VERSION, ...index } satisfies KernelIndex);
    return session;
  } catch (error) {
    session.close();
    throw error;
  }
}

/**
 * Takes the index that the luod before the kexec left, once: its session is finished.
 * @returns undefined when there is none.
 * @throws {LiveUpdateError} EINVAL when it cannot be understood.
 */
export function takeKernelIndex(device: LiveupdateDevice): KernelIndex | undefined {
  const session = retrieveOurs(device, INDEX_SESSION);
  if (session === undefined) return undefined;
  // Whatever it holds, the sessions of the services are there without it.
  try {
    const index = parseMap(kernelIndex, readImageFile(session.retrieve(MAP_TOKEN)), INDEX_SESSION);
    session.finish();
    return index;
  } finally {
    session.close();
  }
}

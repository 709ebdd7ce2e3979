/**
 * A service as the keeper has it: one group, with an item for the service itself, one for each of its processes, one for each
 * thing that is held for it, one for an update under way, and one for the updates that are over. From these the next luod goes on where the last one was killed.
 */
import { z } from 'zod';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from '../linux/fd.js';
import type { Held } from './custody.js';
import { healthWords } from './health.js';
import type { KeptItem, Store } from './keeper-link.js';
import { probationRecord } from './probation.js';
import { askedRecord, type HistoryEntry, historyRecord } from './update-history.js';

/** Services' groups in the keeper: this and the name. */
export const SERVICE_GROUP = 'service ';

const command = z.array(z.string()).min(1);
const deadline = z.number().positive().optional();

const serviceRecord = z.object({
  name: z.string().min(1),
  command,
  /** What ran before the last update. */
  previous: command.optional(),
  cwd: z.string(),
  /** Of one of several workers. */
  worker: z
    .object({
      group: z.string().min(1),
      index: z.number().int().positive(),
      count: z.number().int().positive(),
    })
    .optional(),
  restart: z.enum(['on-failure', 'always', 'never']),
  maxRestarts: z.number().int().nonnegative(),
  fresh: z.boolean(),
  state: z.enum(['starting', 'serving', 'updating', 'restarting', 'stopping']),
  generation: z.number().int().nonnegative(),
  wasReady: z.boolean(),
  isOwed: z.boolean(),
  restarts: z.number().int().nonnegative(),
  updateKey: z.string().optional(),
  lastKey: z.string().optional(),
  lastUpdate: z.unknown(),
  health: healthWords.optional(),
  probation: probationRecord.optional(),
});

const imageRecord = z.object({
  role: z.enum(['current', 'successor', 'lingering']),
  command,
  secret: z.string().min(1),
  generation: z.number().int().positive(),
  startedAt: z.number(),
  /** The process that luod started. */
  childPid: z.number().int().positive(),
  /** The program's own, which said hello. */
  pid: z.number().int().positive(),
  /** The group of its connection. */
  client: z.string().optional(),
});

const heldRecord = z.object({
  session: z.string(),
  compatible: z.string(),
  bytes: z.string(),
  since: z.number(),
});

const updateRecord = z.object({
  command,
  deadlines: z.object({
    total: z.number().positive(),
    spawn: deadline,
    preserve: deadline,
    freeze: deadline,
    retrieve: deadline,
    finish: deadline,
    drain: deadline,
  }),
  /** Whether the old image was told to freeze: from then on the images may finish the update by themselves. */
  freezing: z.boolean(),
  asked: askedRecord.optional(),
});

/** Which worker of which group a service is. */
export type WorkerOf = NonNullable<z.infer<typeof serviceRecord>['worker']>;
export type ServiceRecord = z.infer<typeof serviceRecord>;
export type ImageRecord = z.infer<typeof imageRecord>;
export type UpdateRecord = z.infer<typeof updateRecord>;

export interface RestoredImage extends ImageRecord {
  /** The receiver's to close; undefined when there was no descriptor to be had. */
  readonly pidfd: number | undefined;
}

export interface RestoredService {
  readonly service: ServiceRecord;
  readonly images: readonly RestoredImage[];
  readonly held: readonly (Held & { readonly session: string })[];
  readonly update: (UpdateRecord & { readonly commitFd: number }) | undefined;
  /** The oldest first. */
  readonly history: readonly HistoryEntry[];
}

/** Writes one service's items. */
export class ServiceStore {
  readonly #store: Store;
  readonly #group: string;

  constructor(store: Store, name: string) {
    this.#store = store;
    this.#group = `${SERVICE_GROUP}${name}`;
  }

  service(record: ServiceRecord): void {
    this.#store.put(this.#group, 'service', record, []);
  }

  /** @param pidfd Undefined to change the record of an image that is there. */
  image(record: ImageRecord, pidfd: number | undefined): void {
    const item = `image ${record.secret}`;
    if (pidfd === undefined) this.#store.amend(this.#group, item, record);
    else this.#store.put(this.#group, item, record, [pidfd]);
  }

  dropImage(secret: string): void {
    this.#store.drop(this.#group, `image ${secret}`);
  }

  hold(session: string, { compatible, bytes, fds, since }: Held, isKnown = false): void {
    const record = { session, compatible, bytes: Buffer.from(bytes).toString('base64'), since };
    if (isKnown) this.#store.amend(this.#group, `held ${session}`, record);
    else this.#store.put(this.#group, `held ${session}`, record, fds);
  }

  release(session: string): void {
    this.#store.drop(this.#group, `held ${session}`);
  }

  /** @param commitFd Undefined to change the record. */
  update(record: UpdateRecord, commitFd: number | undefined): void {
    if (commitFd === undefined) this.#store.amend(this.#group, 'update', record);
    else this.#store.put(this.#group, 'update', record, [commitFd]);
  }

  history(record: { entries: HistoryEntry[] }): void {
    this.#store.put(this.#group, 'history', record, []);
  }

  dropUpdate(): void {
    this.#store.drop(this.#group, 'update');
  }

  drop(): void {
    this.#store.drop(this.#group);
  }
}

/** The items of one service, checked. @throws {LiveUpdateError} EINVAL; all descriptors are closed then. */
export function parseService(items: readonly KeptItem[]): RestoredService {
  try {
    let service: ServiceRecord | undefined;
    let update: RestoredService['update'];
    let history: readonly HistoryEntry[] = [];
    const images: RestoredImage[] = [];
    const held: (Held & { session: string })[] = [];
    for (const { item, record, fds } of items) {
      if (item === 'service') service = serviceRecord.parse(record);
      else if (item === 'update') update = { ...updateRecord.parse(record), commitFd: first(fds) };
      else if (item === 'history') history = historyRecord.parse(record).entries;
      else if (item.startsWith('image ')) images.push({ ...imageRecord.parse(record), pidfd: fds[0] });
      else if (item.startsWith('held ')) {
        const { session, compatible, bytes, since } = heldRecord.parse(record);
        held.push({ session, compatible, since, fds, bytes: Buffer.from(bytes, 'base64') });
      }
    }
    if (service === undefined) throw new LiveUpdateError('EINVAL', 'items without their service');
    return { service, images, held, update, history };
  } catch (error) {
    for (const { fds } of items) for (const fd of fds) closeFd(fd);
    if (error instanceof LiveUpdateError) throw error;
    throw new LiveUpdateError('EINVAL', 'a record of another version, or damaged', { cause: error });
  }
}

function first(fds: readonly number[]): number {
  if (fds[0] === undefined) throw new LiveUpdateError('EINVAL', 'an item without its descriptor');
  return fds[0];
}

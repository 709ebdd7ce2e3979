/**
 * What an image says to luod, checked word by word. Both ends are of this project, so it is few words with plain fields; they are
 * checked all the same, since a program can write to its socket what it likes, and could be of another version. What is not named
 * here does not get in: a message is made anew from its fields that were checked.
 *
 * This is by hand, unlike what strangers may ask (requests.ts), so that a luod that only runs its program needs no library for it.
 */
import { LiveUpdateError } from '../core/errors.js';
import { COMPATIBLE_BYTES, SESSION_NAME_BYTES } from '../core/names.js';
import type { ImageToLuod } from '../handover/protocol.js';

/** How an image introduces itself. */
export interface ImageHello {
  readonly protocol: number;
  /** Its secret. */
  readonly image: string;
  readonly pid: number;
}

type Check = (value: unknown) => boolean;

const text =
  (least = 0, most = Number.POSITIVE_INFINITY): Check =>
  (value) =>
    typeof value === 'string' && value.length >= least && value.length <= most;
const finite: Check = (value) => Number.isFinite(value);
const whole =
  (least = Number.MIN_SAFE_INTEGER): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= least;
const flag: Check = (value) => typeof value === 'boolean';
const oneOf =
  (...words: string[]): Check =>
  (value) =>
    words.includes(value as string);
const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value);
const list =
  (check: Check, least = 0): Check =>
  (value) =>
    Array.isArray(value) && value.length >= least && value.every(check);
const record =
  (fields: Readonly<Record<string, Check>>): Check =>
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    Object.entries(fields).every(([name, check]) => check((value as Record<string, unknown>)[name]));

const session = text(1, SESSION_NAME_BYTES);
const left = optional(list(record({ session: text(), what: text() })));

type Fields = Readonly<Record<string, Check>>;

/** All but 'hello', which is said once and before anything else. */
const WORDS: { readonly [Type in Exclude<ImageToLuod['type'], 'hello'>]: Fields } = {
  hold: { session, compatible: text(1, COMPATIBLE_BYTES), record: text(0, 65_536) },
  release: { session },
  ready: { warms: optional(flag) },
  preserved: { bytes: finite, left, rolls: optional(flag), warms: optional(flag) },
  warm: { bytes: whole(0) },
  rolled: { connections: whole(0) },
  gaveBack: {},
  frozen: { left },
  finished: {
    frozenAt: text(),
    sentAt: text(),
    retrievedAt: text(),
    resumedAt: text(),
    files: finite,
    connections: finite,
    bytes: finite,
    dropped: list(text()),
    unfinished: list(text()),
  },
  unfrozen: { lost: optional(whole(0)) },
  lingering: { connections: whole(0) },
  failed: {
    phase: oneOf('spawn', 'preserve', 'freeze', 'retrieve', 'finish'),
    error: record({ code: text(), message: text() }),
  },
  update: { id: finite, command: optional(list(text(), 1)) },
  resume: {},
  updating: {},
};

/** A message of a connected image. @throws {LiveUpdateError} EINVAL with the field that is wrong. */
export function parseImageMessage(message: { readonly type: string }): ImageToLuod {
  const fields = Object.hasOwn(WORDS, message.type) ? WORDS[message.type as keyof typeof WORDS] : undefined;
  if (fields === undefined) throw wrong(`no image says '${message.type}'`);
  return { type: message.type, ...checked(message, fields) } as ImageToLuod;
}

const HELLO: Fields = { protocol: whole(), image: text(0, 200), pid: whole(1) };

/**
 * The hello of an image; undefined when `message` is anything else, a client's hello included, which names no secret.
 * @throws {LiveUpdateError} EINVAL with the field that is wrong.
 */
export function parseImageHello(message: { readonly type: string; image?: unknown }): ImageHello | undefined {
  if (message.type !== 'hello' || message.image === undefined) return undefined;
  return checked(message, HELLO) as unknown as ImageHello;
}

function checked(message: object, fields: Fields): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const [name, check] of Object.entries(fields)) {
    const value = (message as Record<string, unknown>)[name];
    if (!check(value)) throw wrong(`'${name}' is missing, or not what it has to be`);
    if (value !== undefined) result[name] = value;
  }
  return result;
}

function wrong(what: string): LiveUpdateError {
  return new LiveUpdateError('EINVAL', what, { operation: 'message' });
}

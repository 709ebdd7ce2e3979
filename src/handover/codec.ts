/**
 * Writes and reads the layout. Both happen inside the blackout, with a file for each live connection: so they work on
 * typed views of one buffer, and a `compatible` that repeats is encoded and decoded once.
 *
 * Reading is all or nothing. The checksum is judged first; then sizes, counts and texts, each against the bytes that are there,
 * before anything of their size is allocated. Whatever is wrong is EINVAL and nothing is returned.
 */
import { LiveUpdateError } from '../core/errors.js';
import { IMAGE_COMPATIBLE } from '../core/names.js';
import type { Image, SerializedFile, SerializedFlb, SerializedSession } from '../core/types.js';
import { ALIGNMENT, FILE, type Field, FLB, LAYOUT_COMPATIBLE, RECORD, ROOT, SESSION } from './layout.js';
import type { PassRecord } from './records.js';

export interface Handover {
  readonly image: Image;
  readonly records: readonly PassRecord[];
}

const WORD = 8;
/** Counts as 0; 144 / 4 = 36, in the first of the four lanes, or in the rest when nothing follows the root. */
const CHECKSUM_WORD = ROOT.fields.checksum.offset / 4;

function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** The image as bytes. @throws {LiveUpdateError} EINVAL for a text that its field cannot hold. */
export function encodeHandover({ image, records }: Handover): Buffer {
  let fileCount = 0;
  for (const { files } of image.sessions) fileCount += files.length;
  const flbsAt = ROOT.bytes + image.sessions.length * SESSION.bytes + fileCount * FILE.bytes;
  const recordsAt = flbsAt + image.flbs.length * FLB.bytes;
  const bytesAt = recordsAt + records.length * RECORD.bytes;
  let total = bytesAt;
  for (const { bytes } of records) total += align(bytes.length);
  const out = new Writer(total);

  out.text(0, ROOT.fields.layout, LAYOUT_COMPATIBLE);
  out.text(0, ROOT.fields.image, image.compatible);
  out.u64(0, ROOT.fields.liveupdateNumber, image.liveupdateNumber);
  out.u64(0, ROOT.fields.totalBytes, BigInt(total));
  out.u64(0, ROOT.fields.sessionCount, BigInt(image.sessions.length));
  out.u64(0, ROOT.fields.fileCount, BigInt(fileCount));
  out.u64(0, ROOT.fields.flbCount, BigInt(image.flbs.length));
  out.u64(0, ROOT.fields.recordCount, BigInt(records.length));

  let at = ROOT.bytes;
  for (const { name, files } of image.sessions) {
    out.text(at, SESSION.fields.name, name);
    out.u64(at, SESSION.fields.fileCount, BigInt(files.length));
    at += SESSION.bytes;
  }
  for (const { files } of image.sessions) {
    for (const { compatible, data, token } of files) {
      out.text(at, FILE.fields.compatible, compatible);
      out.u64(at, FILE.fields.data, data);
      out.u64(at, FILE.fields.token, token);
      at += FILE.bytes;
    }
  }
  for (const { compatible, data, count } of image.flbs) {
    out.text(at, FLB.fields.compatible, compatible);
    out.u64(at, FLB.fields.data, data);
    out.u64(at, FLB.fields.count, BigInt(count));
    at += FLB.bytes;
  }
  let offset = bytesAt;
  for (const { handle, bytes, fdStart, fdCount } of records) {
    out.u64(at, RECORD.fields.handle, BigInt(handle));
    out.u64(at, RECORD.fields.offset, BigInt(offset));
    out.u64(at, RECORD.fields.length, BigInt(bytes.length));
    out.u32(at, RECORD.fields.fdStart, fdStart);
    out.u32(at, RECORD.fields.fdCount, fdCount);
    out.bytes.set(bytes, offset);
    offset += align(bytes.length);
    at += RECORD.bytes;
  }
  out.words32[CHECKSUM_WORD] = checksum(out.words32);
  return out.bytes;
}

/**
 * What `bytes` say. Records' bytes are views of `bytes`.
 * @param fdCount How many descriptors came beside them.
 * @throws {LiveUpdateError} EINVAL for another layout or orchestrator, or any damage.
 */
export function decodeHandover(bytes: Uint8Array, { fdCount }: { fdCount: number }): Handover {
  if (bytes.length < ROOT.bytes || bytes.length % ALIGNMENT !== 0)
    throw damaged(`${bytes.length} bytes are no image`);
  const input = new Reader(bytes);
  const layout = input.text(0, ROOT.fields.layout);
  if (layout !== LAYOUT_COMPATIBLE) throw unknown(layout, LAYOUT_COMPATIBLE);
  if (input.u64(0, ROOT.fields.totalBytes) !== BigInt(bytes.length))
    throw damaged('its length is not what it says');
  if (input.u32(0, ROOT.fields.checksum) !== checksum(input.words32)) throw damaged('its checksum is wrong');
  if (input.u32(0, ROOT.fields.reserved) !== 0) throw damaged('a reserved field is set');
  const compatible = input.text(0, ROOT.fields.image);
  if (compatible !== IMAGE_COMPATIBLE) throw unknown(compatible, IMAGE_COMPATIBLE);

  const room = bytes.length;
  const sessionCount = input.count(0, ROOT.fields.sessionCount, room / SESSION.bytes);
  const fileCount = input.count(0, ROOT.fields.fileCount, room / FILE.bytes);
  const flbCount = input.count(0, ROOT.fields.flbCount, room / FLB.bytes);
  const recordCount = input.count(0, ROOT.fields.recordCount, room / RECORD.bytes);
  const filesAt = ROOT.bytes + sessionCount * SESSION.bytes;
  const flbsAt = filesAt + fileCount * FILE.bytes;
  const recordsAt = flbsAt + flbCount * FLB.bytes;
  const bytesAt = recordsAt + recordCount * RECORD.bytes;
  if (bytesAt > room) throw damaged('it says more than it holds');

  const sessions: SerializedSession[] = [];
  let fileAt = filesAt;
  for (let at = ROOT.bytes; at < filesAt; at += SESSION.bytes) {
    const count = input.count(at, SESSION.fields.fileCount, (flbsAt - fileAt) / FILE.bytes);
    const files: SerializedFile[] = [];
    for (let i = 0; i < count; i++, fileAt += FILE.bytes) {
      files.push({
        compatible: input.text(fileAt, FILE.fields.compatible),
        data: input.u64(fileAt, FILE.fields.data),
        token: input.u64(fileAt, FILE.fields.token),
      });
    }
    sessions.push({ name: input.text(at, SESSION.fields.name), files });
  }
  if (fileAt !== flbsAt) throw damaged('it holds files of no session');

  const flbs: SerializedFlb[] = [];
  for (let at = flbsAt; at < recordsAt; at += FLB.bytes) {
    flbs.push({
      compatible: input.text(at, FLB.fields.compatible),
      data: input.u64(at, FLB.fields.data),
      count: input.count(at, FLB.fields.count, fileCount),
    });
  }

  const records: PassRecord[] = [];
  let offset = bytesAt;
  for (let at = recordsAt; at < bytesAt; at += RECORD.bytes) {
    const length = input.count(at, RECORD.fields.length, room - offset);
    const handle = input.count(at, RECORD.fields.handle, 0xffff_ffff);
    const fdStart = input.u32(at, RECORD.fields.fdStart);
    const count = input.u32(at, RECORD.fields.fdCount);
    if (input.u64(at, RECORD.fields.offset) !== BigInt(offset))
      throw damaged('a record is not where it should be');
    if (fdStart + count > fdCount) throw damaged('a record wants descriptors that did not come');
    records.push({ handle, bytes: bytes.subarray(offset, offset + length), fdStart, fdCount: count });
    offset += align(length);
  }
  if (offset !== room) throw damaged('it holds bytes of no record');
  return {
    image: { compatible, liveupdateNumber: input.u64(0, ROOT.fields.liveupdateNumber), sessions, flbs },
    records,
  };
}

function damaged(text: string): LiveUpdateError {
  return new LiveUpdateError('EINVAL', `the handover is damaged: ${text}`, { operation: 'decode' });
}

function unknown(found: string, known: string): LiveUpdateError {
  return new LiveUpdateError(
    'EINVAL',
    `the handover is ${JSON.stringify(found)}; this version reads '${known}' only`,
    { operation: 'decode' },
  );
}

class Writer {
  readonly bytes: Buffer;
  readonly words32: Int32Array;
  readonly #words: BigUint64Array;
  readonly #texts = new Map<string, BigUint64Array>();

  constructor(size: number) {
    const memory = new ArrayBuffer(size);
    this.bytes = Buffer.from(memory);
    this.words32 = new Int32Array(memory);
    this.#words = new BigUint64Array(memory);
  }

  u32(at: number, { offset }: Field, value: number): void {
    this.words32[(at + offset) / 4] = value;
  }

  u64(at: number, { offset }: Field, value: bigint): void {
    this.#words[(at + offset) / WORD] = value;
  }

  text(at: number, { offset, bytes }: Field, value: string): void {
    let words = this.#texts.get(value);
    if (words === undefined || words.byteLength !== bytes) {
      const field = Buffer.alloc(bytes);
      const encoded = Buffer.from(value);
      if (encoded.length === 0 || encoded.length >= bytes || encoded.includes(0)) {
        throw new LiveUpdateError(
          'EINVAL',
          `${JSON.stringify(value)} does not fit its field of ${bytes} bytes`,
          { operation: 'encode' },
        );
      }
      encoded.copy(field);
      words = new BigUint64Array(field.buffer.slice(field.byteOffset, field.byteOffset + bytes));
      this.#texts.set(value, words);
    }
    this.#words.set(words, (at + offset) / WORD);
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

class Reader {
  readonly words32: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #words: BigUint64Array;
  /** Where the last text was found, and what it was: the next file's is nearly always the same. */
  #textAt = -1;
  #textBytes = 0;
  #text = '';

  constructor(bytes: Uint8Array) {
    // Views need their alignment; bytes from a pool may not have it.
    const aligned = bytes.byteOffset % WORD === 0 ? bytes : bytes.slice();
    this.#bytes = aligned;
    this.words32 = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
    this.#words = new BigUint64Array(aligned.buffer, aligned.byteOffset, aligned.length / WORD);
  }

  u32(at: number, { offset }: Field): number {
    return (this.words32[(at + offset) / 4] as number) >>> 0;
  }

  u64(at: number, { offset }: Field): bigint {
    return this.#words[(at + offset) / WORD] as bigint;
  }

  /** A number that may be at most `most`. */
  count(at: number, field: Field, most: number): number {
    const value = this.u64(at, field);
    if (value > BigInt(Math.max(0, Math.floor(most)))) throw damaged('a count is larger than what is there');
    return Number(value);
  }

  text(at: number, { offset, bytes }: Field): string {
    const start = at + offset;
    if (this.#textBytes === bytes && this.#same(this.#textAt, start, bytes)) return this.#text;
    const field = this.#bytes.subarray(start, start + bytes);
    const end = field.indexOf(0);
    if (end <= 0) throw damaged(end === 0 ? 'a text is empty' : 'a text has no end');
    for (let i = end; i < bytes; i++) if (field[i] !== 0) throw damaged('there is something behind a text');
    try {
      this.#text = utf8.decode(field.subarray(0, end));
    } catch {
      // A TextDecoder says no more than that.
      throw damaged('a text is no UTF-8');
    }
    this.#textAt = start;
    this.#textBytes = bytes;
    return this.#text;
  }

  #same(a: number, b: number, bytes: number): boolean {
    const words = this.words32;
    for (let i = 0; i < bytes / 4; i++) if (words[a / 4 + i] !== words[b / 4 + i]) return false;
    return true;
  }
}

/**
 * A 32-bit sum over all words but its own: four lanes of multiply and rotate, so that it runs as fast as memory is
 * read. It is against damage and not against an attacker, who could not get here.
 */
export function checksum(words: Int32Array): number {
  let a = 0x9e3779b1;
  let b = 0x85ebca77;
  let c = 0xc2b2ae3d;
  let d = 0x27d4eb2f;
  const last = words.length - (words.length % 4);
  for (let i = 0; i < last; i += 4) {
    a = Math.imul((a << 13) | (a >>> 19), 0x9e3779b1) ^ (i === CHECKSUM_WORD ? 0 : (words[i] as number));
    b = Math.imul((b << 13) | (b >>> 19), 0x85ebca77) ^ (words[i + 1] as number);
    c = Math.imul((c << 13) | (c >>> 19), 0xc2b2ae3d) ^ (words[i + 2] as number);
    d = Math.imul((d << 13) | (d >>> 19), 0x27d4eb2f) ^ (words[i + 3] as number);
  }
  for (let i = last; i < words.length; i++) {
    a = Math.imul((a << 13) | (a >>> 19), 0x9e3779b1) ^ (i === CHECKSUM_WORD ? 0 : (words[i] as number));
  }
  let sum = words.length;
  for (const lane of [a, b, c, d]) {
    sum = Math.imul(sum ^ lane, 0x85ebca77);
    sum ^= sum >>> 15;
  }
  return sum >>> 0;
}

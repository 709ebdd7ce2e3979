/**
 * What one image leaves to the next, byte by byte. This file is the contract and nothing else; codec.ts reads and writes
 * by it.
 *
 * Little endian, every field at a multiple of its size, every section at a multiple of 8, no gap between sections:
 *
 *     root · sessions · files · FLBs · records · the records' bytes (each padded to 8)
 *
 * Texts are UTF-8 in fields of fixed size, padded with at least one NUL. An image whose `compatible` is unknown is
 * refused whole, so `LAYOUT_COMPATIBLE` must change with any change of a struct here, and the `compatible` of a file, FLB or
 * record's content with any change of what its handler writes; those belong to the handlers.
 *
 * The forms of session, file and FLB are those of Linux 7.3 (include/linux/kho/abi/luo.h), without its pages and links: a
 * memfd is contiguous.
 */

export const LAYOUT_COMPATIBLE = 'liveupdate-handover-v1';

type FieldType = 'u32' | 'u64' | { readonly text: number };

export interface Field {
  readonly offset: number;
  readonly bytes: number;
}

export interface Struct<Name extends string> {
  readonly bytes: number;
  readonly fields: Readonly<Record<Name, Field>>;
}

function struct<Name extends string>(description: Readonly<Record<Name, FieldType>>): Struct<Name> {
  const fields = {} as Record<Name, Field>;
  let offset = 0;
  for (const [name, type] of Object.entries(description) as [Name, FieldType][]) {
    const bytes = type === 'u32' ? 4 : type === 'u64' ? 8 : type.text;
    fields[name] = { offset, bytes };
    offset += bytes;
  }
  return { bytes: offset, fields };
}

/** The head of an image. */
export const ROOT = struct({
  /** `LAYOUT_COMPATIBLE`. */
  layout: { text: 48 },
  /** The orchestrator's own `compatible` (`Image.compatible`). */
  image: { text: 48 },
  liveupdateNumber: 'u64',
  /** Of the whole image, root included. */
  totalBytes: 'u64',
  sessionCount: 'u64',
  fileCount: 'u64',
  flbCount: 'u64',
  recordCount: 'u64',
  /** Over everything, this field taken as 0. */
  checksum: 'u32',
  /** 0. */
  reserved: 'u32',
});

/** One session; its files follow those of the session before. Linux: `struct luo_session_ser`. */
export const SESSION = struct({ name: { text: 64 }, fileCount: 'u64' });

/** One preserved file. Linux: `struct luo_file_ser`. */
export const FILE = struct({ compatible: { text: 48 }, data: 'u64', token: 'u64' });

/** One FLB. Linux: `struct luo_flb_ser`. */
export const FLB = struct({ compatible: { text: 48 }, data: 'u64', count: 'u64' });

/** One record: a handler's bytes, from `offset` of the image, and `fdCount` descriptors from `fdStart` of those beside it. */
export const RECORD = struct({ handle: 'u64', offset: 'u64', length: 'u64', fdStart: 'u32', fdCount: 'u32' });

export const ALIGNMENT = 8;

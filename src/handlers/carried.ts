/**
 * What the built-in handlers have in common with every handler that puts its state into handover records: where the
 * records are, and how a record's handle sits in the file's `serializedData`.
 */
import type { FileHandler } from '../core/types.js';
import type { IncomingRecords, OutgoingRecords } from '../handover/records.js';

/** The two sides of an image's handover, never mixed: what came in, and what goes out at the next update. */
export interface Handover {
  incoming: IncomingRecords;
  outgoing: OutgoingRecords;
}

/**
 * A handler that can build its file from the record alone, before the old image has frozen.
 *
 * Its `compatible` names one form of the record. A form that changes gets a new name and a handler of its own, and a program
 * registers those of every form that may come: the first that takes a file writes it, each reads what came by its name.
 */
export interface CarriedFileHandler<File = unknown, Private = unknown> extends FileHandler<File, Private> {
  /**
   * Optional, but `keep()` needs it. Builds what it can from the record while the old image still serves, without reading from
   * the file or writing to it, and returns the file. Called for each pass that brings the record, and possibly again: what
   * was built once belongs into `incoming.adopt(handle, build)`.
   */
  adopt?(handle: number): unknown;
  /**
   * Optional. What luod holds for this file while the program runs, so that the file outlives a crash of the program: a record
   * and descriptors (the caller's to borrow) from which `adopt` builds it again.
   */
  custody?(file: File): { readonly bytes: Uint8Array; readonly fds: readonly number[] };
  /**
   * Optional. The file of an object that a program gives to `keep()`: of Node's own `dgram.Socket`, say. Undefined when the object is
   * not this handler's. Throws when it is, and cannot be kept as it stands.
   */
  toFile?(value: unknown): File | undefined;
  /** Optional. What the program has in its hands of a file. Default: the file itself. */
  toObject?(file: File): unknown;
  /**
   * Optional. Lets the file flow: after the commit, when everything that came in is finished. Called for a file that this image
   * made, too. `onFlow` is to be called when the program gets the first of what waited.
   */
  start?(file: File, onFlow: () => void): void;
  /**
   * Optional. After the commit, in the old image, which ends at once or lingers to serve what could not cross: the file is the next
   * image's, and this one may no longer read from it, write to it or show its end to anybody; the program hears no more of
   * it. Synchronous.
   */
  sever?(file: File): void;
  /** Optional. Calls back, once, when the program has given the file up; at a later turn of the loop if it had before. */
  onGone?(file: File, callback: () => void): void;
}

/** The record's handle in a file's `serializedData`. */
export function handleOf(serializedData: bigint): number {
  return Number(serializedData);
}

export function toSerializedData(handle: number): bigint {
  return BigInt(handle);
}

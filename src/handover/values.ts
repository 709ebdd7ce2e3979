/** Values as bytes: V8's structured clone, with its failures as errnos. */
import { DefaultSerializer, deserialize } from 'node:v8';
import { LiveUpdateError } from '../core/errors.js';

/**
 * @param head Bytes to stand in front of the clone, for who reads them there.
 * @throws {LiveUpdateError} EINVAL when the value cannot be cloned (a function, a socket, a proxy, ...).
 */
export function serializeValue(value: unknown, head?: Uint8Array): Buffer {
  try {
    const serializer = new DefaultSerializer();
    if (head !== undefined) serializer.writeRawBytes(head);
    serializer.writeHeader();
    serializer.writeValue(value);
    return serializer.releaseBuffer();
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', `the value cannot be cloned: ${textOf(cause)}`, { cause });
  }
}

/** @throws {LiveUpdateError} EINVAL when the bytes are damaged. */
export function deserializeValue(bytes: Uint8Array): unknown {
  try {
    return deserialize(bytes);
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', `the saved value is damaged: ${textOf(cause)}`, { cause });
  }
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

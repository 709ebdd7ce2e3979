/**
 * What a program gives to `keep()` and gets from it are Node's own objects; what handlers take are files. Each handler knows the two
 * ways between them for its own kind, so that a new kind is a new handler and nothing else.
 */
import { LiveUpdateError } from '../core/errors.js';
import type { CarriedFileHandler } from '../handlers/carried.js';

/**
 * The file of `value`: what the first handler makes of it that knows it, else `value` itself.
 * @throws {LiveUpdateError} EINVAL for what is no object; what the handler has to say against it.
 */
export function toFile(value: unknown, handlers: Iterable<CarriedFileHandler>): object {
  if (typeof value !== 'object' || value === null) {
    throw new LiveUpdateError('EINVAL', `keep() takes a live file, not ${typeof value}`, {
      operation: 'keep',
    });
  }
  for (const handler of handlers) {
    const file = handler.toFile?.(value);
    if (file !== undefined) return file as object;
  }
  return value;
}

/** The handler that takes `file`. @throws {LiveUpdateError} ENOENT when none does. */
export function handlerOf(
  file: unknown,
  handlers: Iterable<CarriedFileHandler>,
  session: string,
): CarriedFileHandler {
  for (const handler of handlers) if (handler.ops.canPreserve(handler, file)) return handler;
  const name = (file as object).constructor?.name ?? typeof file;
  throw new LiveUpdateError('ENOENT', `no handler takes this ${name}`, { operation: 'keep', session });
}

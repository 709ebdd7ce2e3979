/** The handlers that every program has, in the order in which they are asked. */
import type { CarriedFileHandler, Handover } from './carried.js';
import { childHandler } from './child.js';
import { connectionHandler } from './connection.js';
import { connectionSetHandler } from './connection-set.js';
import { datagramHandler } from './datagram.js';
import { eventfdHandler } from './eventfd.js';
import { listenerHandler } from './listener.js';
import { memfdHandler } from './memfd.js';
import { memoryHandler } from './memory.js';
import { openFileHandler } from './open-file.js';
import { pipeHandler } from './pipe.js';
import { unversionedStateHandler, versionedStateHandler } from './state.js';
import { timerHandler } from './timer.js';
import { timerfdHandler } from './timerfd.js';

/** None of them freezes in more than one go, so that between their freezes the event loop does not turn. */
export function builtInHandlers(handover: Handover): CarriedFileHandler[] {
  return [
    memoryHandler,
    unversionedStateHandler,
    versionedStateHandler,
    listenerHandler,
    // A socket may be a pipe, which is to be asked first.
    pipeHandler,
    eventfdHandler,
    timerfdHandler,
    connectionHandler,
    connectionSetHandler,
    memfdHandler,
    datagramHandler,
    childHandler,
    timerHandler,
    openFileHandler,
  ].map((handler) => handler(handover) as CarriedFileHandler);
}

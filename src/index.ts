/** The public face of liveupdate. Everything that is exported here is API; nothing else is. */
export { liveupdate } from './app/index.js';
export { type KeptDescriptor, LuodClient, LuodSession } from './app/luod-client.js';
export type { LiveUpdateOptions, Origin, Program, ProgramEvents, ReadyOptions } from './app/program.js';
export * from './core/index.js';
export type { CarriedFileHandler, Handover } from './handlers/carried.js';
export { handleOf, toSerializedData } from './handlers/carried.js';
export type { Connection } from './handlers/connection.js';
export { FdFile } from './handlers/fd-file.js';
export { Memory } from './handlers/memory.js';
export type { SharedListenOptions } from './handlers/shared-port.js';
export type { StateOptions } from './handlers/state-shape.js';

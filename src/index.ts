/** The public face of liveupdate. Everything that is exported here is API; nothing else is. */
export { liveupdate } from './app/index.js';
export { type KeptDescriptor, LuodClient, LuodSession } from './app/luod-client.js';
export type { LiveUpdateOptions, Origin, Program, ProgramEvents, ReadyOptions } from './app/program.js';
export * from './core/index.js';
export type { CarriedFileHandler, Handover } from './handlers/carried.js';
export { handleOf, toSerializedData } from './handlers/carried.js';
export { type ChildEvents, type ChildOptions, type ChildStdio, KeptChild } from './handlers/child.js';
export type { Connection } from './handlers/connection.js';
export { type CountEvents, CountFd } from './handlers/count-fd.js';
export { Eventfd } from './handlers/eventfd.js';
export { FdFile } from './handlers/fd-file.js';
export { Memory } from './handlers/memory.js';
export { OpenFile } from './handlers/open-file.js';
export type { StateOptions } from './handlers/state-shape.js';
export type { KeptTimer, TimerOptions } from './handlers/timer.js';
export { Timerfd } from './handlers/timerfd.js';

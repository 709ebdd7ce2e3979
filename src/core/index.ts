/** The orchestrator: `include/linux/liveupdate.h` in TypeScript. It imports nothing but itself. */
export { Device } from './device.js';
export * from './errors.js';
export type { FlbInfo } from './flb.js';
export { LiveUpdate, type LiveUpdateOptions } from './liveupdate.js';
export {
  COMPATIBLE_BYTES,
  FLB_LIMIT,
  IMAGE_COMPATIBLE,
  isCompatible,
  isSessionName,
  isU64,
  SESSION_NAME_BYTES,
  U64_MAX,
} from './names.js';
export { Session } from './session.js';
export type { FileInfo, FileState, SessionInfo, SessionState } from './states.js';
export * from './types.js';

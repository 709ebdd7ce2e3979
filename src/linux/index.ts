/** The kernel's interfaces, one thin file each. */
export * from './exec.js';
export * from './fd.js';
export * from './fd-facts.js';
export * from './kcmp.js';
export * from './kernel-facts.js';
export * from './kexec.js';
export * from './listen-socket.js';
export * from './liveupdate.js';
export * from './mapping.js';
export * from './memfd.js';
export * from './notify.js';
export * from './pidfd.js';
export * from './poll.js';
export * from './scm-rights.js';
export * from './socket-facts.js';
export * from './socketpair.js';

#!/usr/bin/env node
/**
 * luod: the daemon, in as little memory as V8 can be told to take. All the rest is in luod-command.ts, and loaded behind this, because
 * the modules are what V8's young generation would grow to 16 MiB for; 5 of them would stay resident for good in a process that mostly
 * waits. Told here and not by Node's arguments, it is the same however luod is started, and no program that luod starts inherits it.
 */
import { setFlagsFromString } from 'node:v8';
import { cacheOwnCode } from '../daemon/compile-cache.js';

setFlagsFromString('--semi-space-growth-factor=1');
setFlagsFromString('--optimize-for-size');
// Behind the flags, by which V8 knows its code again.
cacheOwnCode();
await import('./luod-command.js');

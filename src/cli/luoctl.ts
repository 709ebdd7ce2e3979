#!/usr/bin/env node
/** luoctl: asks a luod how things stand, and to update what it runs. All of it is in luoctl-command.ts, loaded behind the cache for it. */
import { cacheOwnCode } from '../daemon/compile-cache.js';

cacheOwnCode();
await import('./luoctl-command.js');

/**
 * A luod's young generation stays as small as V8 makes it. V8 would let it grow to 16 MiB while the modules load, of which 5 MiB stay
 * resident for good in a process that then mostly waits. Imported before anything else, because that is when it grows.
 */
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--semi-space-growth-factor=1');

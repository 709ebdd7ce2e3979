/**
 * The client of event streams: npm's `eventsource`, the Node client of the WHATWG standard, as it comes. Version 4 is the last one for
 * Node 20. Behind the end of its stream, whatever ended it, it waits before it connects again, as the standard wants it: three
 * seconds, unless the server says `retry:`, which ours does not.
 */
import { fetchPackage, load } from './npm.mjs';

const NAME = 'eventsource';
const VERSION = '4.1.1';
export const RECONNECT_MS = 3000;

export const eventSource = {
  title: 'event streams',
  how: 'subscribers',
  version: `${NAME} ${VERSION}`,
  prepare: () => fetchPackage(NAME, VERSION),
  load: () => load(NAME, VERSION).EventSource,
};

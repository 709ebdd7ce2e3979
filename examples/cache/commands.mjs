/**
 * What the cache can be asked, each as Redis answers it. A command gets its words and writes one reply; what it refuses it throws,
 * before it has changed anything. MSET's keys are set one after the other: one that does not fit leaves those before it set.
 */
import { StoreError } from './store.mjs';

/** Clients look at this to know which commands there may be. */
const REDIS_VERSION = '7.0.0';
const I64_MAX = 2n ** 63n - 1n;

export class CommandError extends Error {
  constructor(message, code = 'ERR') {
    super(message);
    this.code = code;
  }
}

const text = (word) => word.toString('latin1');
const upper = (word) => text(word).toUpperCase();

const syntax = () => new CommandError('syntax error');
const notAnInteger = () => new CommandError('value is not an integer or out of range');

function integer(word) {
  const digits = text(word);
  if (digits.length > 20 || !/^(0|-?[1-9]\d*)$/.test(digits)) throw notAnInteger();
  const value = BigInt(digits);
  if (value > I64_MAX || value < -I64_MAX - 1n) throw notAnInteger();
  return value;
}

/** One that a number holds exactly. */
function smallInteger(word) {
  const value = Number(integer(word));
  if (!Number.isSafeInteger(value)) throw notAnInteger();
  return value;
}

/** When something expires: what counts seconds is multiplied, what counts from now on is added to it. */
const EXPIRIES = { EX: [1000, true], PX: [1, true], EXAT: [1000, false], PXAT: [1, false] };

function expiryOf(kind, word, command) {
  const [unit, fromNow] = EXPIRIES[kind];
  const value = smallInteger(word) * unit + (fromNow ? Date.now() : 0);
  if (!Number.isSafeInteger(value)) throw new CommandError(`invalid expire time in '${command}' command`);
  return value;
}

function positiveExpiryOf(kind, word, command) {
  if (smallInteger(word) <= 0) throw new CommandError(`invalid expire time in '${command}' command`);
  return expiryOf(kind, word, command);
}

function set({ store, out }, [key, value, ...options]) {
  let expiresAt = 0;
  let condition;
  let keeps = false;
  let gets = false;
  for (let i = 0; i < options.length; i++) {
    const option = upper(options[i]);
    if (option === 'NX' || option === 'XX') {
      if (condition !== undefined && condition !== option) throw syntax();
      condition = option;
    } else if (option === 'KEEPTTL' && expiresAt === 0) keeps = true;
    else if (option === 'GET') gets = true;
    else if (Object.hasOwn(EXPIRIES, option) && i + 1 < options.length && expiresAt === 0 && !keeps) {
      expiresAt = positiveExpiryOf(option, options[++i], 'set');
    } else throw syntax();
  }
  const before = condition === undefined && !gets && !keeps ? undefined : store.get(key);
  // Its place in memory may be another's when the new value is written.
  const old = before && Buffer.from(before);
  if (keeps) expiresAt = store.expiresAt(key) ?? 0;
  const isWanted = condition === undefined || (condition === 'XX') === (old !== undefined);
  if (isWanted) store.set(key, value, expiresAt);
  if (gets) out.bulkOrNull(old);
  else if (isWanted) out.ok();
  else out.null();
}

function setFor(kind, command) {
  return ({ store, out }, [key, time, value]) => {
    store.set(key, value, positiveExpiryOf(kind, time, command));
    out.ok();
  };
}

function add({ store, out }, key, by) {
  const before = store.get(key);
  const value = (before === undefined ? 0n : integer(before)) + by;
  if (value > I64_MAX || value < -I64_MAX - 1n)
    throw new CommandError('increment or decrement would overflow');
  store.set(key, Buffer.from(String(value)), store.expiresAt(key) ?? 0);
  out.integer(value);
}

function append({ store, out }, [key, more]) {
  const value = Buffer.concat([store.get(key) ?? Buffer.alloc(0), more]);
  store.set(key, value, store.expiresAt(key) ?? 0);
  out.integer(value.length);
}

function setMany({ store, out }, words) {
  if (words.length % 2 !== 0) throw new CommandError("wrong number of arguments for 'mset' command");
  for (let i = 0; i < words.length; i += 2) store.set(words[i], words[i + 1]);
  out.ok();
}

function getMany({ store, out }, keys) {
  out.array(keys.length);
  for (const key of keys) out.bulkOrNull(store.get(key));
}

const countOf = (keys, isOne) => keys.reduce((count, key) => count + (isOne(key) ? 1 : 0), 0);

function expireBy(kind, command) {
  return ({ store, out }, [key, time]) =>
    out.integer(store.expire(key, Math.max(expiryOf(kind, time, command), 1)) ? 1 : 0);
}

function timeToLive(unit) {
  return ({ store, out }, [key]) => {
    const expiresAt = store.expiresAt(key);
    if (expiresAt === undefined) out.integer(-2);
    else out.integer(expiresAt === 0 ? -1 : Math.round((expiresAt - Date.now()) / unit));
  };
}

function persist({ store, out }, [key]) {
  const expiresAt = store.expiresAt(key);
  if (expiresAt !== undefined && expiresAt !== 0) store.expire(key, 0);
  out.integer(expiresAt ? 1 : 0);
}

/** Redis's patterns: `*`, `?`, `[a-c]`, `[^a]` and `\` before what is meant as it is. */
export function matcher(pattern) {
  const source = text(pattern).replace(
    /\\([\s\S])|\[(\^?)((?:\\[\s\S]|[^\]\\])*)\]|[\s\S]/g,
    (one, escaped, not, members) => {
      if (escaped !== undefined) return exactly(escaped);
      if (members !== undefined) return members === '' ? '(?!)' : `[${not}${classOf(members)}]`;
      if (one === '*') return '[\\s\\S]*';
      return one === '?' ? '[\\s\\S]' : exactly(one);
    },
  );
  const expression = new RegExp(`^${source}$`);
  return (key) => expression.test(text(key));
}

const exactly = (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;

/** A range may go either way. */
function classOf(members) {
  return members.replace(
    /(?:\\([\s\S])|([\s\S]))(?:-(?:\\([\s\S])|([\s\S])))?/g,
    (_all, escaped, plain, escapedEnd, plainEnd) => {
      const from = escaped ?? plain;
      const to = escapedEnd ?? plainEnd ?? from;
      return from < to ? `${exactly(from)}-${exactly(to)}` : `${exactly(to)}-${exactly(from)}`;
    },
  );
}

function keys({ store, out }, [pattern]) {
  const found = store.scan(0, Number.POSITIVE_INFINITY).keys.filter(matcher(pattern));
  out.array(found.length);
  for (const key of found) out.bulk(key);
}

function scan({ store, out }, [cursor, ...options]) {
  let isWanted = () => true;
  let count = 10;
  if (options.length % 2 !== 0) throw syntax();
  for (let i = 0; i < options.length; i += 2) {
    const option = upper(options[i]);
    if (option === 'MATCH') isWanted = matcher(options[i + 1]);
    else if (option === 'COUNT') count = smallInteger(options[i + 1]);
    else throw syntax();
  }
  if (count < 1) throw syntax();
  if (!/^\d{1,20}$/.test(text(cursor))) throw new CommandError('invalid cursor');
  const next = store.scan(Number(text(cursor)), count);
  const found = next.keys.filter(isWanted);
  out.array(2);
  out.bulk(String(next.cursor));
  out.array(found.length);
  for (const key of found) out.bulk(key);
}

function hello({ out, state }, [version, ...options]) {
  if (version !== undefined && !['2', '3'].includes(text(version)))
    throw new CommandError('unsupported protocol version', 'NOPROTO');
  for (let i = 0; i < options.length; i += 2) {
    if (upper(options[i]) !== 'SETNAME' || options[i + 1] === undefined)
      throw new CommandError(`Syntax error in HELLO option '${text(options[i])}'`);
    state.name = text(options[i + 1]);
  }
  if (version !== undefined) state.protocol = Number(text(version));
  out.protocol = state.protocol;
  const facts = { server: 'redis', version: REDIS_VERSION, proto: state.protocol, mode: 'standalone' };
  out.map(Object.keys(facts).length);
  for (const [name, value] of Object.entries(facts)) {
    out.bulk(name);
    if (typeof value === 'number') out.integer(value);
    else out.bulk(value);
  }
}

function client({ out, state }, [what, ...rest]) {
  switch (upper(what)) {
    case 'SETNAME':
      state.name = text(rest[0] ?? Buffer.alloc(0));
      return out.ok();
    case 'GETNAME':
      return out.bulkOrNull(state.name === '' ? undefined : state.name);
    case 'SETINFO':
      return out.ok();
    default:
      throw new CommandError(`unknown subcommand '${text(what)}'`);
  }
}

/** What redis-benchmark and others ask for before they begin. */
function config({ store, out, facts }, [what, ...names]) {
  if (upper(what) !== 'GET') throw new CommandError(`unknown subcommand '${text(what)}'`);
  const values = {
    save: '',
    appendonly: 'no',
    maxmemory: String(store.heapBytes),
    'maxmemory-policy': facts.evicts ? 'allkeys-oldest' : 'noeviction',
  };
  const found = Object.entries(values).filter(([name]) =>
    names.some((pattern) => matcher(pattern)(Buffer.from(name))),
  );
  out.map(found.length);
  for (const [name, value] of found) {
    out.bulk(name);
    out.bulk(value);
  }
}

function info({ store, out, facts }) {
  const sections = {
    Server: {
      redis_version: REDIS_VERSION,
      server_name: 'liveupdate-cache',
      process_id: process.pid,
      uptime_in_seconds: Math.floor(process.uptime()),
      generation: facts.generation,
      origin: facts.origin,
    },
    Memory: {
      used_memory: store.liveBytes,
      maxmemory: store.heapBytes,
      maxmemory_policy: facts.evicts ? 'allkeys-oldest' : 'noeviction',
    },
    Stats: { expired_keys: store.expired, evicted_keys: store.evicted },
    Keyspace: store.size === 0 ? {} : { db0: `keys=${store.size}` },
  };
  const lines = Object.entries(sections).flatMap(([name, values]) => [
    `# ${name}`,
    ...Object.entries(values).map(([key, value]) => `${key}:${value}`),
    '',
  ]);
  out.bulk(lines.join('\r\n'));
}

function select({ out }, [database]) {
  if (smallInteger(database) !== 0) throw new CommandError('DB index is out of range');
  out.ok();
}

/** For each command: what it does, and how many words may follow its name. */
export const COMMANDS = new Map(
  Object.entries({
    PING: [({ out }, [word]) => (word === undefined ? out.simple('PONG') : out.bulk(word)), 0, 1],
    ECHO: [({ out }, [word]) => out.bulk(word), 1, 1],
    GET: [({ store, out }, [key]) => out.bulkOrNull(store.get(key)), 1, 1],
    SET: [set, 2],
    SETEX: [setFor('EX', 'setex'), 3, 3],
    PSETEX: [setFor('PX', 'psetex'), 3, 3],
    SETNX: [
      ({ store, out }, [key, value]) => {
        const isNew = !store.has(key);
        if (isNew) store.set(key, value);
        out.integer(isNew ? 1 : 0);
      },
      2,
      2,
    ],
    MGET: [getMany, 1],
    MSET: [setMany, 2],
    DEL: [({ store, out }, keys) => out.integer(countOf(keys, (key) => store.delete(key))), 1],
    UNLINK: [({ store, out }, keys) => out.integer(countOf(keys, (key) => store.delete(key))), 1],
    EXISTS: [({ store, out }, keys) => out.integer(countOf(keys, (key) => store.has(key))), 1],
    TYPE: [({ store, out }, [key]) => out.simple(store.has(key) ? 'string' : 'none'), 1, 1],
    INCR: [(context, [key]) => add(context, key, 1n), 1, 1],
    DECR: [(context, [key]) => add(context, key, -1n), 1, 1],
    INCRBY: [(context, [key, by]) => add(context, key, integer(by)), 2, 2],
    DECRBY: [(context, [key, by]) => add(context, key, -integer(by)), 2, 2],
    APPEND: [append, 2, 2],
    STRLEN: [({ store, out }, [key]) => out.integer(store.get(key)?.length ?? 0), 1, 1],
    EXPIRE: [expireBy('EX', 'expire'), 2, 2],
    PEXPIRE: [expireBy('PX', 'pexpire'), 2, 2],
    EXPIREAT: [expireBy('EXAT', 'expireat'), 2, 2],
    PEXPIREAT: [expireBy('PXAT', 'pexpireat'), 2, 2],
    TTL: [timeToLive(1000), 1, 1],
    PTTL: [timeToLive(1), 1, 1],
    PERSIST: [persist, 1, 1],
    DBSIZE: [({ store, out }) => out.integer(store.size), 0, 0],
    FLUSHALL: [({ store, out }) => out.ok(store.clear()), 0, 1],
    FLUSHDB: [({ store, out }) => out.ok(store.clear()), 0, 1],
    KEYS: [keys, 1, 1],
    SCAN: [scan, 1],
    INFO: [info, 0],
    HELLO: [hello, 0],
    CLIENT: [client, 1],
    CONFIG: [config, 2],
    // Clients ask for help texts and get none.
    COMMAND: [({ out }) => out.array(0), 0],
    SELECT: [select, 1, 1],
    QUIT: [
      ({ out, state }) => {
        state.isOver = true;
        out.ok();
      },
      0,
    ],
  }),
);

/**
 * Answers a request.
 * @param {any} context `store`; `out`, the replies; `state`, the connection's; `facts`, the program's: generation, origin, evicts.
 * @param {Buffer[]} request Its words, one at least.
 */
export function answer(context, request) {
  const [name, ...words] = request;
  const command = COMMANDS.get(upper(name));
  const { out } = context;
  if (command === undefined) {
    out.error(`ERR unknown command '${text(name).slice(0, 128)}'`);
    return;
  }
  const [run, least, most = Number.POSITIVE_INFINITY] = command;
  if (words.length < least || words.length > most) {
    out.error(`ERR wrong number of arguments for '${text(name).toLowerCase()}' command`);
    return;
  }
  try {
    run(context, words);
  } catch (error) {
    if (!(error instanceof CommandError || error instanceof StoreError)) throw error;
    const why = error.code === 'OOM' ? "command not allowed when used memory > 'maxmemory'." : error.message;
    out.error(`${error.code} ${why}`);
  }
}

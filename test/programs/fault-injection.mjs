/**
 * Makes a callback of a handler, or of an FLB, fail on purpose: loaded before the program calls `liveupdate()`, it wraps the callbacks of
 * every handler that is registered.
 *
 * PLAN is a file that the test writes, looked up at each call: `{ "old": PID, "faults": [{ image, of, callback, fault }] }`, where
 * `image` is 'old' for the process PID and 'new' for any other, and `of` a `compatible`. A fault happens once: the pid of the image
 * is then in `PLAN.INDEX`.
 *
 *   throw    throws            block    never returns
 *   reject   rejects           kill     the process is killed
 *   hang     resolves at SIGUSR2, if ever
 *
 * A callback that may fail fails in the place of its work. One that cannot, or is past the commit, does its work first: that, nobody
 * else can do for it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { LiveUpdate } from 'liveupdate/core';

const { PLAN } = process.env;

const OF_FILES = [
  'canPreserve',
  'preserve',
  'unpreserve',
  'freeze',
  'unfreeze',
  'retrieve',
  'canFinish',
  'finish',
];
/** What a handler may lack, and what is there in its place when it is to fail. */
const OPTIONAL = { freeze: () => undefined, unfreeze: () => undefined, canFinish: () => true };
const OF_HANDLERS = ['adopt', 'custody', 'start', 'sever'];
const OF_FLBS = ['preserve', 'unpreserve', 'retrieve', 'finish'];
const CANNOT_FAIL = new Set(['unpreserve', 'unfreeze', 'finish', 'start']);

const hanging = [];
process.on('SIGUSR2', () => {
  for (const resume of hanging.splice(0)) resume();
});

/** Whether it has not happened yet; from now on it has. */
function isFirst(index) {
  try {
    writeFileSync(`${PLAN}.${index}`, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    return false;
  }
}

function planned(of, callback) {
  const { old, faults } = JSON.parse(readFileSync(PLAN, 'utf8'));
  const image = process.pid === old ? 'old' : 'new';
  const index = faults.findIndex(
    (fault) => fault.image === image && fault.of === of && fault.callback === callback,
  );
  return index !== -1 && isFirst(index) ? faults[index].fault : undefined;
}

function happen(fault, of, callback) {
  const error = Object.assign(new Error(`${callback} of ${of} fails on purpose`), { code: 'EIO' });
  switch (fault) {
    case 'throw':
      throw error;
    case 'reject':
      return Promise.reject(error);
    case 'hang':
      return new Promise((resolve) => hanging.push(resolve));
    case 'kill':
      return process.kill(process.pid, 'SIGKILL');
    case 'block':
      return Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
}

function wrap(owner, callback, of, otherwise) {
  const original = owner[callback] ?? otherwise;
  if (original === undefined) return;
  owner[callback] = function (...args) {
    const fault = planned(of, callback);
    if (fault === undefined) return original.apply(this, args);
    if (CANNOT_FAIL.has(callback) && fault !== 'kill') {
      original.apply(this, args);
      return happen(fault, of, callback);
    }
    const later = happen(fault, of, callback);
    return fault === 'hang' ? later.then(() => original.apply(this, args)) : later;
  };
}

const { registerFileHandler, registerFlb } = LiveUpdate.prototype;
/** The program's own; there are others, in which what follows is rehearsed. */
let program;

LiveUpdate.prototype.registerFileHandler = function (handler) {
  program ??= this;
  if (this !== program) return registerFileHandler.call(this, handler);
  const { compatible, ops } = handler;
  for (const callback of OF_FILES) wrap(ops, callback, compatible, OPTIONAL[callback]);
  for (const callback of OF_HANDLERS) wrap(handler, callback, compatible);
  return registerFileHandler.call(this, handler);
};

const wrapped = new Set();
LiveUpdate.prototype.registerFlb = function (handler, flb) {
  if (this === program && !wrapped.has(flb))
    for (const callback of OF_FLBS) wrap(flb.ops, callback, flb.compatible);
  wrapped.add(flb);
  return registerFlb.call(this, handler, flb);
};

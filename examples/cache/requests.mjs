/**
 * Requests as they come: arrays of bulk strings, or a line of words ("inline"), in chunks that end anywhere.
 *
 * What is not complete is kept in an `input`, which is plain data: it lives in the connection's state and so crosses an update with the
 * connection, be it in the middle of a word, of a length or of a value. Nothing of a request that has come is read again when more
 * comes: what is complete of it is in `args`.
 */

const CR = 13;
const LF = 10;
const ASTERISK = 42;
const DOLLAR = 36;
const MAX_LINE = 64 * 1024;
const MAX_ARGS = 1024 * 1024;
const MAX_REQUEST = 64 * 1024 * 1024;
const MAX_BULK = MAX_REQUEST;

/** What Redis, too, answers with an error and the end of the connection. */
export class ProtocolError extends Error {}

/** The state of a connection of which nothing has come. */
export function newInput() {
  return {
    /** Bytes that came and are not part of `args`. */
    chunks: [],
    /** Of the first chunk, how many are done with. */
    offset: 0,
    length: 0,
    /** How many are needed before it is worth looking again. */
    needed: 1,
    /** The request under way: what is complete of it, and how many more to come. */
    args: [],
    missing: 0,
    argsBytes: 0,
    /** The length of the bulk string under way; -1 when that is not known yet. */
    bulk: -1,
  };
}

/** Bytes came. */
export function feed(input, chunk) {
  input.chunks.push(chunk);
  input.length += chunk.length;
}

/**
 * The next complete request, as its words; undefined when there is none yet. An empty one is skipped.
 * @throws {ProtocolError}
 */
export function nextRequest(input) {
  while (input.length >= input.needed) {
    if (input.missing > 0) {
      if (!readArgument(input)) return undefined;
      if (input.missing > 0) continue;
      const args = input.args;
      input.args = [];
      input.argsBytes = 0;
      return args;
    }
    const line = takeLine(input);
    if (line === undefined) return undefined;
    if (line[0] === ASTERISK) {
      const count = lengthIn(line, MAX_ARGS, 'multibulk');
      input.missing = Math.max(count, 0);
    } else {
      const words = line.toString('latin1').trim();
      if (words !== '') return words.split(/\s+/).map((word) => Buffer.from(word, 'latin1'));
    }
  }
  return undefined;
}

/** @returns whether there was a whole one. */
function readArgument(input) {
  if (input.bulk === -1) {
    const line = takeLine(input);
    if (line === undefined) return false;
    if (line[0] !== DOLLAR) throw new ProtocolError(`expected '$', got '${line.toString('latin1', 0, 1)}'`);
    const length = lengthIn(line, MAX_BULK, 'bulk');
    if (length < 0) throw new ProtocolError('invalid bulk length');
    input.argsBytes += length;
    if (input.argsBytes > MAX_REQUEST) throw new ProtocolError('the request is too large');
    input.bulk = length;
  }
  const bytes = take(input, input.bulk + 2);
  if (bytes === undefined) return false;
  if (bytes[input.bulk] !== CR || bytes[input.bulk + 1] !== LF)
    throw new ProtocolError('a bulk string does not end where it should');
  input.args.push(bytes.subarray(0, input.bulk));
  input.missing--;
  input.bulk = -1;
  return true;
}

function lengthIn(line, most, what) {
  let length = 0;
  const sign = line[1] === 45 ? -1 : 1;
  const start = sign === 1 ? 1 : 2;
  for (let i = start; i < line.length; i++) {
    const digit = line[i] - 48;
    if (digit < 0 || digit > 9) throw new ProtocolError(`invalid ${what} length`);
    length = length * 10 + digit;
    if (length > most) throw new ProtocolError(`invalid ${what} length`);
  }
  if (line.length === start) throw new ProtocolError(`invalid ${what} length`);
  return sign * length;
}

/** All that came, in one piece. */
function merged(input) {
  const { chunks } = input;
  if (chunks.length > 1) {
    chunks[0] = chunks[0].subarray(input.offset);
    input.chunks = [Buffer.concat(chunks, input.length)];
    input.offset = 0;
  }
  return input.chunks[0];
}

function take(input, length) {
  if (input.length < length) {
    input.needed = length;
    return undefined;
  }
  return drop(input, length, length);
}

/** Takes `length` bytes, of which the first `kept` are wanted. */
function drop(input, length, kept) {
  const bytes = merged(input);
  const taken = bytes.subarray(input.offset, input.offset + kept);
  input.offset += length;
  input.length -= length;
  input.needed = 1;
  if (input.length === 0) {
    input.chunks = [];
    input.offset = 0;
  }
  return taken;
}

/** A line without its end. */
function takeLine(input) {
  const bytes = merged(input);
  if (bytes === undefined) return undefined;
  const end = bytes.indexOf(LF, input.offset);
  const length = (end === -1 ? bytes.length : end) - input.offset;
  if (length > MAX_LINE) throw new ProtocolError('too big inline request');
  if (end === -1) {
    input.needed = input.length + 1;
    return undefined;
  }
  return drop(input, length + 1, length > 0 && bytes[end - 1] === CR ? length - 1 : length);
}

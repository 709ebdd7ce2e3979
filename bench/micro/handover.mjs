/** What carries an image: its layout as bytes, descriptors by SCM_RIGHTS, and passes of records through a wire. */
import { closeSync } from 'node:fs';
import { IMAGE_COMPATIBLE } from '../../build/core/index.js';
import { decodeHandover, encodeHandover } from '../../build/handover/codec.js';
import { writeImageFile } from '../../build/handover/image-file.js';
import { readHandover } from '../../build/handover/received.js';
import { IncomingRecords, OutgoingRecords } from '../../build/handover/records.js';
import { Wire } from '../../build/handover/wire.js';
import { createMemfd, recvFds, sendFds, socketPair } from '../../build/linux/index.js';
import { MAX_FDS_PER_MESSAGE } from '../../build/linux/scm-rights.js';
import { controlOnce, copyOnce, MAP_STEPS } from './control.mjs';
import { series, threadTime, watch } from './measure.mjs';

const FILES = [10, 100, 1000, 10_000, 100_000];
const MEBIBYTES = [1, 4, 16, 64];
const BATCHES = [1, 4, 16, 64, MAX_FDS_PER_MESSAGE];
const RECORDS = [504, 5040, 50_400];
/** Records of one pass, as the predecessor sends them. */
const PASS = MAX_FDS_PER_MESSAGE - 1;

function imageOf(files) {
  return {
    compatible: IMAGE_COMPATIBLE,
    liveupdateNumber: 1n,
    sessions: [
      {
        name: 's',
        files: Array.from({ length: files }, (_, i) => ({
          compatible: 'thing-v1',
          data: BigInt(i + 1),
          token: BigInt(i),
        })),
      },
    ],
    flbs: [],
  };
}

/** @param control What stands beside it: takes what `watch()` returns. */
function codecOnce(handover, control) {
  const clock = watch();
  const bytes = encodeHandover(handover);
  clock.done('encode');
  decodeHandover(bytes, { fdCount: 0 });
  clock.done('decode');
  control(clock);
  return clock.times;
}

async function layouts(repetitions) {
  const byFiles = new Map(FILES.map((size) => [size, { image: imageOf(size), records: [] }]));
  const tokens = new Map(FILES.map((size) => [size, Array.from({ length: size }, (_, i) => BigInt(i))]));
  const byBytes = new Map(
    MEBIBYTES.map((size) => {
      const bytes = new Uint8Array(size << 20).fill(5);
      return [size, { image: imageOf(1), records: [{ handle: 1, bytes, fdStart: 0, fdCount: 0 }] }];
    }),
  );
  return [
    {
      title: 'Layout, by files',
      unit: 'µs a file',
      sizes: FILES,
      from: 1000,
      controls: MAP_STEPS,
      controlOf: { encode: 'Map: all', decode: 'Map: all' },
      rows: await series(FILES, repetitions, (size) =>
        codecOnce(byFiles.get(size), (clock) => controlOnce(tokens.get(size), clock)),
      ),
    },
    {
      title: 'Layout, by MiB of one record',
      unit: 'µs a MiB',
      sizes: MEBIBYTES,
      from: 1,
      controlOf: { encode: 'copied', decode: 'copied' },
      // 64 MiB of fresh memory come from the kernel page by page, 1 MiB does not: a copy by itself has had 1.8.
      machine: 1,
      rows: await series(
        MEBIBYTES,
        Math.min(repetitions, 9),
        (size) => {
          const handover = byBytes.get(size);
          return codecOnce(handover, (clock) => copyOnce(handover.records[0].bytes, clock));
        },
        16,
      ),
    },
  ];
}

/** From one socket to another, received and closed. */
async function descriptors(repetitions) {
  const file = createMemfd('bench', 1);
  const [from, to] = socketPair();
  const byte = Buffer.alloc(1);
  try {
    return {
      title: 'SCM_RIGHTS, by descriptors of a message',
      unit: 'µs a descriptor, sent and received',
      sizes: BATCHES,
      rows: await series(BATCHES, repetitions, (size) => {
        const fds = Array.from({ length: size }, () => file);
        const start = threadTime();
        sendFds(from, byte, fds);
        const received = recvFds(to, { maxBytes: 1, maxFds: size });
        const crossed = threadTime();
        for (const fd of received.fds) closeSync(fd);
        return { 'send and receive': crossed - start };
      }),
    };
  } finally {
    for (const fd of [from, to, file]) closeSync(fd);
  }
}

/** Records of 64 bytes with a descriptor each, put, encoded, sent, received, checked, and dropped, as in a pre-copy. */
async function preCopy(repetitions) {
  const file = createMemfd('bench', 1);
  const content = Buffer.alloc(64, 7);
  const image = imageOf(1);
  const [from, to] = socketPair();
  const failed = (error) => {
    if (error !== undefined) throw error;
  };
  let arrived;
  const sender = new Wire(from, { message: () => undefined, closed: failed });
  const receiver = new Wire(to, { message: (_, fds) => arrived(fds), closed: failed });
  const once = (size) => {
    const outgoing = new OutgoingRecords();
    const incoming = new IncomingRecords({ exclusive: false });
    let came = 0;
    arrived = (fds) => {
      const { records } = readHandover(fds);
      incoming.add(records, fds);
      for (const { handle } of records) incoming.drop(handle);
      came += records.length;
    };
    const start = threadTime();
    for (let sent = 0; sent < size; sent += PASS) {
      for (let i = 0; i < PASS; i++) outgoing.put(content, [file]);
      const pass = outgoing.takeChanged();
      const memfd = writeImageFile(encodeHandover({ image, records: pass.records }));
      sender.send({ type: 'precopy' }, [memfd, ...pass.fds]);
      closeSync(memfd);
      sender.flushNow(1000);
      receiver.receiveNow();
    }
    const took = threadTime() - start;
    if (came !== size) throw new Error(`${came} of ${size} records came`);
    return { 'put, send, receive': took };
  };
  try {
    return {
      title: 'Pre-copy, by records with a descriptor each',
      unit: 'µs a record',
      sizes: RECORDS,
      from: RECORDS[0],
      rows: await series(RECORDS, Math.min(repetitions, 9), once),
    };
  } finally {
    sender.close();
    receiver.close();
    closeSync(file);
  }
}

/** @returns the tables of this part. */
export async function measureHandover(repetitions) {
  return [...(await layouts(repetitions)), await descriptors(repetitions), await preCopy(repetitions)];
}

/**
 * A program with a child process that counts aloud and copies its input to its output, until its input says 'end': then it exits
 * with 7. What the child says is checked and counted in a state.
 */
import { KeptChild, liveupdate } from 'liveupdate';

const SCRIPT = `
process.stdin.setEncoding('utf8').on('data', (text) => { if (text.includes('end')) process.exitCode = 7, process.stdin.destroy(), clearInterval(timer); });
let number = 0;
const timer = setInterval(() => { for (let i = 0; i < 200; i++) process.stdout.write(number++ + '\\n'); }, 1);
`;
const lu = await liveupdate();
const heard = await lu.state('heard', () => ({ next: 0, wrong: 0, rest: '' }));
const child = await lu.keep('child', () =>
  KeptChild.spawn(process.execPath, ['-e', SCRIPT], { stdio: ['pipe', 'pipe', 'inherit'] }),
);
const tell = (text) => process.stderr.write(`generation ${lu.generation}: ${text}\n`);
child.stdout.setEncoding('utf8').on('data', (text) => {
  const lines = (heard.rest + text).split('\n');
  heard.rest = lines.pop();
  for (const line of lines) if (Number(line) !== heard.next++) heard.wrong++;
});
child.on('exit', (code, signal) => tell(`child ${child.pid} exited with ${code} ${signal}`));
child.on('close', () => {
  tell(`heard ${heard.next}, wrong ${heard.wrong}`);
});
// The program lives on without it.
setInterval(() => undefined, 2 ** 30);
process.on('SIGUSR2', () => child.stdin.write('end'));
await lu.ready();
tell(`child ${child.pid}, heard ${heard.next}`);

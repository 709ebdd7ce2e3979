/** A program that makes its own workers, by node:cluster. With JOINS its primary is luod's. */
import cluster from 'node:cluster';
import { liveupdate } from 'liveupdate';

if (cluster.isPrimary) {
  if (process.env.JOINS) await (await liveupdate()).ready();
  cluster.fork();
} else {
  const lu = await liveupdate();
  console.error(`cluster worker: managed ${lu.isManaged}, worker ${lu.worker}`);
}

/** All systems of the comparison, in the order of the tables. */
import { cluster } from './systems/cluster.mjs';
import { criu } from './systems/criu.mjs';
import { exec } from './systems/exec.mjs';
import { haproxy } from './systems/haproxy.mjs';
import { luod } from './systems/luod.mjs';
import { nginx } from './systems/nginx.mjs';
import { pm2 } from './systems/pm2.mjs';
import { restart } from './systems/restart.mjs';

export const SYSTEMS = [luod, exec, cluster, pm2, nginx, haproxy, restart, criu];

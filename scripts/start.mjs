/** `npm start`: installs and builds what is missing, then shows the main job. `npm start -- --help` tells the options. */
import { buildStale, installMissing } from './install.mjs';

installMissing();
buildStale();
const { demo } = await import('../examples/chat/demo.mjs');
process.exitCode = await demo(process.argv.slice(2));

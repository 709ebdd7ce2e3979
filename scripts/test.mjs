/**
 * `npm test`: installs, builds, lints, type-checks and tests. Words behind -- go to vitest: `npm test -- test/unit`.
 */
import { build, installMissing, run, tool } from './install.mjs';

installMissing();
build();
run(tool('biome'), ['check', '--error-on-warnings', '.']);
run(tool('tsc'), ['-p', 'test/tsconfig.json', '--noEmit']);
run(tool('vitest'), ['run', ...process.argv.slice(2)]);

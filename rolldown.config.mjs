/** dist/: the modules of src/ in a few files, because a start is mostly the loading of files. One run, so that each module exists once. */
import { copyFileSync, readFileSync } from 'node:fs';
import { defineConfig } from 'rolldown';

const { dependencies, peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8'));

/** What others import, or start by its path. */
const ENTRIES = ['index', 'core/index', 'linux/index', 'cli/luod', 'cli/luoctl', 'daemon/keeper-process'];

const bundles = defineConfig({
  input: Object.fromEntries(ENTRIES.map((name) => [name, `src/${name}.ts`])),
  platform: 'node',
  // Packages stay packages: luod loads some of them late, and a program has its own ws.
  external: [/^node:/, ...Object.keys({ ...dependencies, ...peerDependencies })],
  resolve: { extensionAlias: { '.js': ['.ts'] } },
  transform: { target: 'es2023' },
  output: {
    dir: 'dist',
    entryFileNames: '[name].js',
    // One folder below dist/, as every module is below src/: what is relative to import.meta.url is the same in both.
    chunkFileNames: 'chunks/[name].js',
    // Names and lines stay as they are, and a map leads to the source (node --enable-source-maps).
    minify: false,
    comments: false,
    sourcemap: true,
    codeSplitting: {
      // The first in whose `test` a module is, has it, and what it imports. In the order of who needs least.
      groups: [
        // Both commands, before they may cache what they compile.
        {
          name: 'start',
          test: /src\/(daemon\/socket-address|daemon\/compile-cache|handover\/protocol)\.ts$/,
          priority: 5,
        },
        // luoctl, which shall not wait for libc.
        { name: 'errors', test: /src\/core\/(errors|reported-error|names|resolvers)\.ts$/, priority: 4 },
        // The keeper, which shall be small.
        {
          name: 'wire',
          test: /src\/(handover\/(wire|dial)|linux\/(accept|listen-socket|pidfd|poll|socket-facts)|daemon\/(keeper-socket|kept-items|socket-path))\.ts$/,
          priority: 3,
        },
        { name: 'linux', test: /src\/linux\//, priority: 2 },
        { name: 'core', test: /src\/core\//, priority: 1 },
      ],
    },
  },
});

/** The one package that is bundled, because luod needs a third of it: a file of its own, for dist/ and for the modules of build/. */
const zodParts = defineConfig({
  input: 'src/daemon/zod-parts.ts',
  platform: 'node',
  plugins: [
    {
      name: 'license',
      // Whoever has the copy has its license.
      writeBundle: ({ dir }) => copyFileSync('node_modules/zod/LICENSE', `${dir}/zod-parts.LICENSE`),
    },
  ],
  output: ['dist/daemon', 'build/daemon'].map((dir) => ({
    dir,
    format: 'cjs',
    entryFileNames: '[name].cjs',
    minify: false,
    comments: false,
    codeSplitting: false,
  })),
});

export default [bundles, zodParts];

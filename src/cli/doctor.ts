/** `luoctl doctor`: can this machine's kernel be live-updated, and if not, what is missing. */
import type { Command } from 'commander';
import type { KernelFact } from '../linux/kernel-facts.js';
import { EXIT_REFUSED } from './arguments.js';
import { factsTable } from './tables.js';

export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description("whether this machine's kernel can be live-updated (luoctl kexec), and what is missing")
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      '\nAsks the machine, not luod. Updates of programs need none of this. Exit code 0 only when nothing is missing or unknown.',
    )
    .action(async ({ json }: { json?: boolean }) => {
      // Only here, so that no other command waits for libc.
      const { kernelFacts } = await import('../linux/kernel-facts.js');
      const facts = kernelFacts();
      const ok = facts.every(({ verdict }: KernelFact) => verdict === 'ok');
      process.stdout.write(json === true ? `${JSON.stringify({ ok, facts })}\n` : factsTable(facts));
      if (!ok) process.exitCode = EXIT_REFUSED;
    });
}

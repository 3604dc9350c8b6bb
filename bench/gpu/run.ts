/**
 * The whole comparison in one command, for a machine with a GPU; needs neither Redis nor Python:
 *
 *   bash deploy/setup.sh --cuda && node bench/gpu/run.ts
 *
 *   --provider NAME   another one than cuda
 *   --quick           a short form: does everything work? Writes nothing
 *
 * Writes bench/gpu/RESULTS.md; where the provider is not there, that says so, unless it holds what another
 * machine has measured. As a suite among the others: npm run bench -- gpu.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { ProviderName } from '../../src/infer/protocol.ts';
import { PROVIDERS } from '../../src/infer/providers.ts';
import { describeMachine, machineText } from '../machine.ts';
import { resultText } from '../results.ts';
import { runGpu } from './suite.ts';

const { values } = parseArgs({
  options: { provider: { type: 'string', default: 'cuda' }, quick: { type: 'boolean', default: false } },
});
const provider = values.provider as ProviderName;
if (!PROVIDERS.includes(provider)) {
  process.stderr.write(`--provider ${provider}: use one of ${PROVIDERS.join(', ')}\n`);
  process.exit(2);
}
const machine = describeMachine();
const say = (line: string) => process.stderr.write(`${line}\n`);
const result = await runGpu(provider, { quick: values.quick, say, only: null });
const head = `# The CPU against ${provider}\n\nWritten by \`node bench/gpu/run.ts\`.`;
const text = `${head}\n\n${machineText(machine)}\n\n`;
const whole = `${text}${resultText('Results', result)}`.trimEnd();
process.stdout.write(`${whole}\n`);
const file = new URL('./RESULTS.md', import.meta.url);
const hasFigures = existsSync(file) && readFileSync(file, 'utf8').includes('| rows ');
if (!values.quick && (result.raw !== null || !hasFigures)) writeFileSync(file, `${whole}\n`);

// Completes package-lock.json: node deploy/lock.ts [--check]
//
// A package with prebuilt binaries names one optional package per platform. Where the registry that `npm
// install` ran against does not carry some of them (a partial mirror), npm leaves them out of the lock
// without a word, and then `npm ci` refuses that lock on every machine. This adds what is missing: the
// version that the parent asks for, and the platform from the package's name. Such an entry has no integrity
// hash until someone with the whole registry runs `npm install`.
import { readFileSync, writeFileSync } from 'node:fs';

interface LockEntry {
  readonly version: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const systems = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32'];
const processors = ['arm', 'arm64', 'ia32', 'loong64', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64'];

/** Whether node_modules at `from` or above holds the package, as Node looks it up. */
function isLocked(packages: Readonly<Record<string, LockEntry>>, from: string, name: string): boolean {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    if (packages[at === '' ? `node_modules/${name}` : `${at}/node_modules/${name}`]) return true;
    if (at === '') return false;
  }
}

function entryFor(name: string, version: string, isDev: boolean): LockEntry {
  const words = name.split(/[/_-]/);
  const os = systems.find((word) => words.includes(word));
  const cpu = processors.find((word) => words.includes(word));
  if (os === undefined || cpu === undefined || !/^\d+\.\d+\.\d+/.test(version)) {
    throw new Error(
      `${name}@${version} is missing from package-lock.json and names no platform: add it by hand`,
    );
  }
  const libc = words.includes('musl') ? { libc: ['musl'] } : {};
  return { version, cpu: [cpu], ...(isDev ? { dev: true } : {}), ...libc, optional: true, os: [os] };
}

/** The entries that package-lock.json lacks, by their place in node_modules. */
export function missingEntries(packages: Readonly<Record<string, LockEntry>>): Record<string, LockEntry> {
  const missing: Record<string, LockEntry> = {};
  for (const [at, parent] of Object.entries(packages)) {
    for (const [name, version] of Object.entries(parent.optionalDependencies ?? {})) {
      if (isLocked(packages, at, name)) continue;
      missing[`node_modules/${name}`] = entryFor(name, version, parent.dev === true);
    }
  }
  return missing;
}

if (process.argv[1] === import.meta.filename) {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as {
    packages: Record<string, LockEntry>;
  };
  const missing = missingEntries(lock.packages);
  const names = Object.keys(missing);
  if (process.argv.includes('--check')) {
    process.stdout.write(`${names.length} missing\n${names.join('\n')}\n`);
    process.exitCode = names.length === 0 ? 0 : 1;
  } else {
    const sorted = Object.entries({ ...lock.packages, ...missing }).sort(([a], [b]) =>
      a.localeCompare(b, 'en'),
    );
    lock.packages = Object.fromEntries(sorted);
    writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
    process.stdout.write(`${names.length} added\n`);
  }
}

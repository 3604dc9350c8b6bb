// A short report: a line for each file, every failure in full, and at the end one line that a script can
// read: "N passed, N failed" and ", N skipped" where there are any.
import { relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import type { Reporter, SerializedError, TestModule } from 'vitest/node';

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function printIndented(text: string): void {
  print(`    ${stripVTControlCharacters(text).replaceAll('\n', '\n    ')}`);
}

function printError(error: SerializedError): void {
  const lines = (error.stack ?? error.message ?? String(error)).split('\n');
  printIndented(lines.filter((line) => !line.includes('/node_modules/')).join('\n'));
  const diff = (error as { diff?: unknown }).diff;
  if (typeof diff === 'string') printIndented(diff);
  if (error.cause) printIndented(`caused by: ${String((error.cause as Error).stack ?? error.cause)}`);
}

export default class SummaryReporter implements Reporter {
  #passed = 0;
  #failed = 0;
  #skipped = 0;

  onTestModuleEnd(module: TestModule): void {
    const path = relative(process.cwd(), module.moduleId);
    let passed = 0;
    let failed = 0;
    let skipped = 0;
    const failures: (() => void)[] = [];
    for (const test of module.children.allTests()) {
      const result = test.result();
      if (result.state === 'passed') passed++;
      else if (result.state === 'failed') {
        failed++;
        failures.push(() => {
          print(`  FAILED ${path} > ${test.fullName}`);
          for (const error of result.errors) printError(error);
        });
      } else skipped++;
    }
    // A suite's hook or the file itself can fail without any test of it failing: that must not pass as green.
    const outside = [...module.errors()];
    for (const suite of module.children.allSuites()) outside.push(...suite.errors());
    if (outside.length > 0) {
      failed += 1;
      failures.push(() => {
        print(`  FAILED ${path} (outside its tests)`);
        for (const error of outside) printError(error);
      });
    }
    this.#passed += passed;
    this.#failed += failed;
    this.#skipped += skipped;
    const skippedText = skipped > 0 ? `, ${skipped} skipped` : '';
    const seconds = (module.diagnostic().duration / 1000).toFixed(1);
    print(`${failed > 0 ? 'not ok' : 'ok'} ${path}: ${passed} passed${skippedText} (${seconds} s)`);
    for (const failure of failures) failure();
  }

  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    for (const error of errors) {
      this.#failed++;
      print('  FAILED with an error that no test caught');
      printError(error);
    }
    if (modules.length === 0) {
      this.#failed++;
      print('  FAILED: no test file was found');
    }
    const skippedText = this.#skipped > 0 ? `, ${this.#skipped} skipped` : '';
    print(`${this.#passed} passed, ${this.#failed} failed${skippedText}`);
  }

  onUserConsoleLog(log: { content: string }): void {
    process.stdout.write(log.content);
  }
}

import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Fixture, guessesAfter, SONGS, startFixture } from './support/console.ts';

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

let browser: Browser;
let fixture: Fixture;
let page: Page;
/** What the browser complained about. */
let complaints: string[];

beforeAll(async () => {
  const executablePath = CHROMIUM.find((path) => existsSync(path));
  if (executablePath === undefined) {
    throw new Error('no chromium on this machine: `bash deploy/setup.sh --tests` installs it');
  }
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
}, 60_000);
afterAll(() => browser?.close());

beforeEach(async () => {
  fixture = await startFixture();
});
afterEach(async () => {
  await page?.close();
  await fixture.close();
});

async function open(path: string, width = 1280, dark = false): Promise<void> {
  page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: dark ? 'dark' : 'light' });
  page.setDefaultTimeout(10_000);
  complaints = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  await page.goto(`${fixture.url}${path}`);
}

const text = async (selector: string) => (await page.textContent(selector))?.trim();
const texts = (selector: string) => page.locator(selector).allTextContents();
const waitForText = (selector: string, hasText: string) => page.locator(selector, { hasText }).waitFor();

/** What the plots of the engine's page hold: the length of each and its last column values. */
async function plotted(): Promise<Record<string, { length: number; last: (number | null)[] }>> {
  return await page.evaluate(() => {
    const plots = (globalThis as unknown as { subitoPlots: Record<string, { columns: (number | null)[][] }> })
      .subitoPlots;
    return Object.fromEntries(
      Object.entries(plots).map(([name, { columns }]) => [
        name,
        { length: columns[0]!.length, last: columns.map((column) => column.at(-1) ?? null) },
      ]),
    );
  });
}

/**
 * Pixels of the plot's canvas that are not blank. (Text, because the browser's types are not those of the
 * tests.)
 */
const inked = (selector: string) =>
  page.evaluate<number>(`(() => {
    const canvas = document.querySelector('${selector} canvas');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((value, at) => at % 4 === 3 && value > 0).length;
  })()`);

test('the engine page shows the figures of /stats, in numbers and in plots', async () => {
  await open('/');
  await waitForText('#tile-in', ',');
  expect(await text('#state')).toBe('running');
  expect(await text('#tile-p99')).toBe('8.0');
  expect(await text('#tile-unread')).toBe('120');
  expect(await text('#tile-busy')).toBe('40 %');
  expect(await text('#tile-connections')).toBe('7');
  expect(await texts('#stages tr:nth-child(1) td')).toEqual(['1.0', '1.0', '1.0', '1.0']);
  expect(await text('#demo-hit')).toBe('41.2 %');
  expect(await text('#demo-base')).toBe('21.4 %');
  expect(await text('#models th')).toContain('next-track@3');
  expect(await text('#models .profile')).toBe(
    'At the start: 1 row 0.41 ms, p99 0.80 ms; 32 rows 1.6 ms, p99 2.9 ms; 64 rows 3.1 ms, p99 4.4 ms. ' +
      'A batch may take 3.5 ms.',
  );
  expect((await texts('#models td'))[3]).toBe('32');
  expect(await text('#notices')).toBe('CLAIMED × 1');
  expect(await page.getAttribute('#batches', 'aria-label')).toBe('400 batches; most often up to 64 rows');
  const plots = await plotted();
  expect(plots['throughput']?.length).toBe(100);
  expect(plots['throughput']?.last.slice(2)).toEqual([160, 1]);
  expect(plots['backlog']?.last).toEqual([120, 64, 96]);
  expect(plots['latency']?.last).toHaveLength(3);
  for (const name of ['throughput', 'latency', 'backlog']) {
    expect(await inked(`#plot-${name}`)).toBeGreaterThan(2000);
  }
  await page.getByLabel('Stages, p99').check();
  expect((await plotted())['latency']?.last).toHaveLength(5);
  expect(await texts('#plot-latency .u-label')).toContain('commit');
  expect(complaints).toEqual([]);
});

test('the engine page says what is wrong, and comes back', async () => {
  await open('/');
  await waitForText('#state', 'running');
  expect(await page.isVisible('#banner')).toBe(false);
  fixture.state = 'reconnecting';
  fixture.reasons = ['Redis at 127.0.0.1:6379 refuses connections'];
  await waitForText('#banner', 'refuses connections');
  expect(await text('#banner')).toContain('no event is lost');
  fixture.state = 'draining';
  await waitForText('#banner', 'draining');
  fixture.state = 'running';
  fixture.reasons = [];
  await page.waitForSelector('#banner', { state: 'hidden' });
  await page.route('**/stats', (route) => route.abort());
  await waitForText('#state', 'unreachable');
  expect(await page.getAttribute('body', 'class')).toBe('stale');
  await page.unroute('**/stats');
  await waitForText('#state', 'running');
});

test('the listener page follows a listener: songs, ranks, and predictions from the socket', async () => {
  await open('/player.html#key=u17');
  await waitForText('#next', 'Live from the socket');
  expect(await text('#state')).toBe('connected');
  expect(fixture.frames.find(({ t }) => t === 'sub')).toMatchObject({ ch: 'key:u17', mode: 'latest' });
  await expect.poll(() => fixture.frames.find(({ t }) => t === 'flow')).toMatchObject({ seq: 1, credit: 1 });
  expect(await texts('#heard .title')).toEqual(SONGS.slice(0, 6).reverse());
  expect(await texts('#heard .badge')).toEqual([
    'guess 3',
    'missed',
    'guess 3',
    'first guess',
    'guess 3',
    'guess 3',
  ]);
  expect(await text('#score')).toBe('5 of 6 guessed, 83 %');
  expect(await texts('#next .title')).toHaveLength(10);
  await page.selectOption('#listener', 'u4');
  await expect
    .poll(() => fixture.frames.filter(({ t }) => t === 'sub').at(-1))
    .toMatchObject({ ch: 'key:u4' });
  expect(await texts('#heard .title')).toEqual(SONGS.slice(0, 9).reverse());
  expect(complaints).toEqual([]);
});

test('the visitor is a listener: picks a guess, types a title, sees the answer and a refusal', async () => {
  await open('/player.html');
  await waitForText('#answer-hint', 'answered in');
  const asked = () => fixture.frames.filter(({ t }) => t === 'event').at(-1);
  expect(asked()).toMatchObject({
    model: 'next-track',
    via: 'direct',
    d: { songs: [], set: 1, position: 1 },
  });
  const second = guessesAfter(0)[1]![0];
  await page.click(`#answer li:nth-child(2) button`);
  await expect.poll(asked).toMatchObject({ d: { songs: [second], set: 1, position: 2 } });
  expect(await texts('#yours li')).toEqual([`1${second}guess 2`]);
  await waitForText('#answer', guessesAfter(1)[0]![0]);
  await page.getByLabel('Second set').check();
  await expect.poll(asked).toMatchObject({ d: { songs: [second], set: 2, position: 1 } });
  await page.getByLabel('Next song').fill('A song of my own');
  await page.keyboard.press('Enter');
  await waitForText('#yours', 'A song of my ownmissed');
  await page.getByLabel('Next song').fill('refuse me');
  await page.getByRole('button', { name: 'Add' }).click();
  await waitForText('#answer-hint', 'No answer: invalid_event');
  await page.getByRole('button', { name: 'Start over' }).click();
  await waitForText('#answer-hint', 'answered in');
  expect(asked()).toMatchObject({ d: { songs: [], set: 1, position: 1 } });
  expect(complaints).toEqual([]);
});

test.each([
  ['/', false],
  ['/', true],
  ['/player.html', false],
  ['/player.html', true],
])('%s fits a phone of 360 pixels, dark: %s', async (path, dark) => {
  await open(path, 360, dark);
  await waitForText(path === '/' ? '#models' : '#next', path === '/' ? 'next-track' : 'Live');
  expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(360);
  expect(await text('#theme')).toBe(dark ? 'Light' : 'Dark');
  const lightness = () => page.evaluate('getComputedStyle(document.body).backgroundColor');
  const before = await lightness();
  await page.click('#theme');
  expect(await lightness()).not.toBe(before);
  expect(complaints).toEqual([]);
});

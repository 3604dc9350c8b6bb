/** Small things both pages need: finding and making elements, writing numbers, the theme. */

/** @param {string} id */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * Sets the text of an element, only if it changed: screen readers and the layout are left in peace.
 * @param {string} id @param {string} value
 */
export function text(id, value) {
  const found = byId(id);
  if (found.textContent !== value) found.textContent = value;
}

/**
 * Makes an element. Text is always text: nothing from the engine is read as HTML.
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
export function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * 12,345 up to ten thousand, then 12.3k and 4.56M; a dash for what is not known.
 * @param {number | null | undefined} value
 */
export function count(value) {
  if (value === null || value === undefined) return '–';
  const short = (/** @type {number} */ n) => n.toLocaleString('en', { maximumSignificantDigits: 3 });
  if (value >= 999_500) return `${short(value / 1e6)}M`;
  if (value >= 10_000) return `${short(value / 1e3)}k`;
  return value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 });
}

/**
 * Milliseconds, aligned in a column: 0.42, 8.0, 123.
 * @param {number | null | undefined} value
 */
export function millis(value) {
  if (value === null || value === undefined) return '–';
  const digits = value < 1 ? 2 : value < 100 ? 1 : 0;
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {number | null | undefined} share */
export function percent(share, digits = 0) {
  if (share === null || share === undefined) return '–';
  return `${(share * 100).toFixed(digits)} %`;
}

/** The theme follows the system until the visitor says otherwise; the choice stays in this browser. */
export function startTheme() {
  const button = byId('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const chosen = () => localStorage.getItem('subito-theme');
  const apply = () => {
    const dark = chosen() === null ? system.matches : chosen() === 'dark';
    document.documentElement.style.colorScheme = dark ? 'dark' : 'light';
    button.textContent = dark ? 'Light' : 'Dark';
    document.dispatchEvent(new Event('subito-theme'));
  };
  button.addEventListener('click', () => {
    localStorage.setItem('subito-theme', button.textContent === 'Dark' ? 'dark' : 'light');
    apply();
  });
  system.addEventListener('change', apply);
  apply();
}

/**
 * Script of the docs page: shows only the operations and types that have every word of the search, in their names, fields or
 * descriptions, and marks the rows with one of these words. `?q=` in the address starts with a search.
 */
export const SCRIPT = `
const field = document.querySelector('input');
const said = document.querySelector('output');
const links = new Map([...document.querySelectorAll('nav a')].map((link) => [link.hash.slice(1), link]));
const entries = [...document.querySelectorAll('details')].map((entry) => ({
  entry,
  text: (entry.id + ' ' + entry.textContent).toLowerCase(),
  isOpen: entry.open,
  link: links.get(entry.id),
  rows: [...entry.querySelectorAll('tr')],
}));
function search() {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const { entry, text, isOpen, link, rows } of entries) {
    const isFound = words.every((word) => text.includes(word));
    if (isFound) count += 1;
    entry.hidden = !isFound;
    entry.open = isOpen || (isFound && words.length > 0);
    if (link) link.hidden = !isFound;
    for (const row of rows) row.className = words.some((word) => row.textContent.toLowerCase().includes(word)) ? 'hit' : '';
  }
  for (const part of document.querySelectorAll('section')) part.hidden = !part.querySelector('details:not([hidden])');
  said.textContent = words.length === 0 ? '' : count + ' of ' + entries.length;
}
field.value = new URLSearchParams(location.search).get('q') ?? '';
field.addEventListener('input', search);
search();
`;

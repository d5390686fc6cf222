// Elements and words. Text becomes text nodes only: nothing here, and nothing elsewhere, turns a string into markup.

// el makes an element with attributes. Children are elements, or strings that become text.
export function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) e.setAttribute(name, value === true ? '' : value);
  }
  e.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== ''));
  return e;
}

// duration is a number of seconds in words, like "3m 20s".
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return both(Math.floor(s / 60), 'm', s % 60, 's', s < 600);
  if (s < 2 * 86400) return both(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'm', true);
  return `${Math.floor(s / 86400)}d`;
}

function both(large, largeUnit, small, smallUnit, precise) {
  return precise && small ? `${large}${largeUnit} ${small}${smallUnit}` : `${large}${largeUnit}`;
}

// between is the time between two dates in words; to now without the second.
export function between(from, to) {
  return duration(((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000);
}

// absolute is a time in UTC, as gkectl writes it.
export function absolute(iso) {
  return new Date(iso).toISOString().replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

// ago is a time that shows how long ago it is, and is kept up to date by tick.
export function ago(iso, { prefix = '', suffix = '' } = {}) {
  if (!iso) return '–';
  const t = el('time', { datetime: iso, title: absolute(iso), 'data-prefix': prefix, 'data-suffix': suffix });
  refresh(t);
  return t;
}

function refresh(t) {
  const seconds = (Date.now() - Date.parse(t.dateTime)) / 1000;
  const words = seconds < 0 ? `in ${duration(-seconds)}` : `${t.dataset.prefix}${duration(seconds)}${t.dataset.suffix}`;
  if (t.textContent !== words) t.textContent = words;
}

// tick brings the times below an element up to date.
export function tick(root) {
  for (const t of root.querySelectorAll('time[data-prefix]')) refresh(t);
}

// moment is a time of day, with the date unless it is today's.
export function moment(iso) {
  const day = iso.slice(0, 10) === new Date().toISOString().slice(0, 10);
  const text = absolute(iso);
  return el('time', { datetime: iso, title: text }, day ? text.slice(11) : text);
}

// versions are key versions in words for those who hear them, like "1 and 2".
export function versions(list) {
  const all = (list ?? []).map(String);
  return all.length ? all.join(' and ') : 'none';
}

// keyOf identifies a cluster in the stream of changes, and address is where the whole of it is.
export function keyOf({ namespace, name }) {
  return `${namespace}/${name}`;
}

export function address({ namespace, name }) {
  return `clusters/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
}

// plural is a count with its noun.
export function plural(n, noun, many = `${noun}s`) {
  return `${n.toLocaleString('en')} ${n === 1 ? noun : many}`;
}

// table makes a table of columns and rows of cells; a column is a name, or a name with a class.
export function table(label, columns, rows) {
  const heads = columns.map((c) => (typeof c === 'string' ? { name: c } : c));
  return el('table', { role: 'table', 'aria-label': label },
    el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' },
      heads.map((c) => el('th', { scope: 'col', role: 'columnheader', class: c.class }, c.name)))),
    el('tbody', { role: 'rowgroup' }, rows.map((cells) => el('tr', { role: 'row' }, cells.map((cell, i) => el(i ? 'td' : 'th', {
      role: i ? 'cell' : 'rowheader', scope: i ? undefined : 'row', class: heads[i].class, 'data-label': heads[i].name,
    }, cell))))));
}

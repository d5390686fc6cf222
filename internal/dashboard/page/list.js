// The list of clusters: filter, order, and rows of which only those that have changed are made again.

import { address, ago, el, keyOf, plural } from './dom.js';

const phases = [
  ['', 'All'], ['blocked', 'Blocked'], ['rotating', 'Rotating'], ['pending', 'Not ready'], ['ready', 'Ready'],
];
const rank = { blocked: 0, rotating: 1, pending: 2, ready: 3 };

// The columns: a name, how rows are ordered by it, and what a cell shows.
const columns = [
  { id: 'name', name: 'Cluster', order: (r) => r.name, cell: (r) => el('a', { href: `#/${address(r)}` }, r.name) },
  { id: 'state', name: 'State', order: (r) => rank[r.phase], cell: (r) => el('span', { class: 'state', 'data-phase': r.phase }, r.state) },
  { id: 'since', name: 'For', number: true, order: (r) => -Date.parse(r.since ?? 0), cell: (r) => ago(r.since) },
  { id: 'key', name: 'Key version', number: true, order: (r) => r.keyVersion, cell: (r) => String(r.keyVersion) },
  { id: 'age', name: 'Key age', number: true, order: (r) => Date.parse(r.keyCreatedAt ?? 0), cell: (r) => ago(r.keyCreatedAt) },
  { id: 'servers', name: 'API servers', number: true, order: (r) => r.apiServers, cell: (r) => r.apiServers },
  { id: 'nodes', name: 'Nodes', number: true, order: (r) => r.nodes, cell: (r) => r.nodes },
  { id: 'namespace', name: 'Namespace', order: (r) => r.namespace, cell: (r) => r.namespace },
  { id: 'kubernetes', name: 'Kubernetes', order: (r) => r.kubernetes, cell: (r) => (r.kubernetes === '-' ? r.infrastructure : r.kubernetes) },
  { id: 'waits', name: 'Waiting for', order: (r) => r.waitingFor ?? '', cell: (r) => el('span', { class: 'wait' }, r.waitingFor ?? '') },
];

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const byName = (a, b) => compare(a.name, b.name) || compare(a.namespace, b.namespace);

export class List {
  constructor(rows) {
    this.rows = rows;
    this.elements = new Map();
    this.column = columns[1];
    this.down = false;
    this.phase = '';
    this.table = document.getElementById('clusters');
    this.body = this.table.tBodies[0];
    this.find = document.getElementById('find');
    this.makeHead();
    this.makePhases();
    this.find.addEventListener('input', () => this.update(new Set()));
    document.getElementById('filter').addEventListener('submit', (event) => event.preventDefault());
    this.body.addEventListener('keydown', (event) => this.move(event));
    this.body.addEventListener('focusin', (event) => this.current(event.target));
    this.body.addEventListener('click', (event) => {
      if (event.target.closest('a') || !getSelection().isCollapsed) return;
      event.target.closest('tr')?.querySelector('a').click();
    });
  }

  makeHead() {
    const head = this.table.tHead.rows[0];
    for (const column of columns) {
      const button = el('button', { type: 'button' }, column.name);
      button.addEventListener('click', () => {
        this.down = this.column === column && !this.down;
        this.column = column;
        this.update(new Set());
      });
      column.head = el('th', { scope: 'col', role: 'columnheader', class: column.number ? 'number' : undefined }, button);
      head.append(column.head);
    }
  }

  makePhases() {
    for (const [phase, name] of phases) {
      const input = el('input', { type: 'radio', name: 'phase', value: phase, checked: phase === '' });
      input.addEventListener('change', () => {
        this.phase = phase;
        this.update(new Set());
      });
      document.getElementById('phases').append(el('label', {}, input, el('span', {}, name, el('b', { 'data-count': phase }))));
    }
  }

  // update shows the rows again, of which those with these keys have changed; null is all.
  update(changed) {
    for (const [key, element] of this.elements) {
      if (changed && !changed.has(key) && this.rows.has(key)) continue;
      if (!this.rows.has(key)) {
        element.remove();
        this.elements.delete(key);
      }
    }
    for (const key of changed ?? this.rows.keys()) {
      if (this.rows.has(key)) this.make(this.rows.get(key));
    }
    this.arrange();
    this.count();
  }

  // make fills the row of a cluster.
  make(row) {
    let tr = this.elements.get(keyOf(row));
    if (!tr) {
      tr = el('tr', { role: 'row', 'data-name': row.name });
      this.elements.set(keyOf(row), tr);
    }
    tr.dataset.phase = row.phase;
    const focused = tr.contains(document.activeElement);
    const tabbable = tr.querySelector('a')?.tabIndex ?? -1;
    tr.replaceChildren(...columns.map((c, i) => el(i ? 'td' : 'th', {
      role: i ? 'cell' : 'rowheader', scope: i ? undefined : 'row', class: c.number ? 'number' : `col-${c.id}`, 'data-label': c.name,
    }, c.cell(row))));
    const a = tr.querySelector('a');
    a.tabIndex = tabbable;
    if (focused) a.focus();
  }

  // arrange puts the rows that are wanted into order, and moves only those that are elsewhere.
  arrange() {
    const text = this.find.value.trim().toLowerCase();
    const { order } = this.column;
    const sign = this.down ? -1 : 1;
    const shown = [...this.rows.values()].filter((r) => this.wants(r, text)).sort((a, b) => {
      const x = order(a);
      const y = order(b);
      return sign * compare(x, y) || byName(a, b);
    });
    const focused = this.body.contains(document.activeElement) && document.activeElement;
    let at = this.body.firstElementChild;
    for (const row of shown) {
      const tr = this.elements.get(keyOf(row));
      if (tr === at) at = at.nextElementSibling;
      else this.body.insertBefore(tr, at);
    }
    while (at) {
      const next = at.nextElementSibling;
      at.remove();
      at = next;
    }
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    if (!this.body.querySelector('a[tabindex="0"]')) this.current(this.body.querySelector('a'));
    for (const c of columns) {
      if (c === this.column) c.head.setAttribute('aria-sort', this.down ? 'descending' : 'ascending');
      else c.head.removeAttribute('aria-sort');
    }
    const none = document.getElementById('none');
    none.hidden = shown.length > 0;
    none.textContent = this.rows.size ? 'No cluster is like that.' : 'There is no user cluster yet.';
    this.shown = shown.length;
  }

  wants(row, text) {
    return (!this.phase || row.phase === this.phase) && (!text || [row.name, row.namespace, row.state, row.infrastructure, row.kubernetes,
      `v${row.keyVersion}`, row.waitingFor ?? ''].some((s) => s.toLowerCase().includes(text)));
  }

  count() {
    const counts = { '': this.rows.size, blocked: 0, rotating: 0, pending: 0, ready: 0 };
    for (const row of this.rows.values()) counts[row.phase]++;
    for (const b of document.querySelectorAll('[data-count]')) b.textContent = ` ${counts[b.dataset.count].toLocaleString('en')}`;
    const all = plural(this.rows.size, 'cluster');
    document.getElementById('summary').textContent = this.shown === this.rows.size ? all : `${this.shown.toLocaleString('en')} of ${all}`;
  }

  // current makes a link the one that the Tab key leads to: the arrow keys lead to the others.
  current(a) {
    if (a?.tagName !== 'A') return;
    for (const other of this.body.querySelectorAll('a[tabindex="0"]')) other.tabIndex = -1;
    a.tabIndex = 0;
  }

  move(event) {
    const tr = event.target.closest('tr');
    const page = Math.max(1, Math.floor(innerHeight / tr.offsetHeight) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const all = [...this.body.rows];
    const to = all[Math.min(all.length - 1, Math.max(0, all.indexOf(tr) + step))];
    to.querySelector('a').focus();
  }

  // focus leads back to the row of a cluster.
  focus(key) {
    const a = this.elements.get(key)?.querySelector('a');
    if (a?.isConnected) a.focus();
  }
}

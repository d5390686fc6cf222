// The page: where its data comes from, and which view is shown. It reads one stream of changes; only the cluster that is
// looked at is fetched whole.

import { address, keyOf, tick } from './dom.js';
import { List } from './list.js';
import { ClusterView } from './cluster.js';

const rows = new Map();
const link = document.getElementById('link');
const changes = document.getElementById('changes');
const list = new List(rows);
const view = new ClusterView(document.getElementById('cluster'));
let source;
let wanted = '';
let fetched = '';
let fetching = false;
let listed = false;

// connect opens the stream. A page that nobody sees has none: browsers allow few connections to one host.
function connect() {
  source?.close();
  source = undefined;
  if (document.hidden) return;
  source = new EventSource('events');
  source.onmessage = (event) => apply(JSON.parse(event.data));
  source.onerror = () => {
    say('lost', source.readyState === EventSource.CLOSED
      ? 'This page has ended: run the command dashboard again and open the URL that it prints'
      : 'No answer from the command dashboard: what is shown may be old');
  };
}

function apply(update) {
  if (update.problem) say('lost', `The admin cluster does not answer, what is shown may be old: ${update.problem}`);
  else if (listed || update.full) say('live', 'Live');
  const told = [];
  if (update.full) {
    rows.clear();
    listed = true;
  }
  for (const key of update.gone ?? []) {
    told.push(`${rows.get(key)?.name ?? key} is gone`);
    rows.delete(key);
  }
  for (const row of update.rows ?? []) {
    const was = rows.get(keyOf(row));
    if (was && (was.state !== row.state || was.phase !== row.phase)) told.push(`${row.name}: ${row.state}`);
    rows.set(keyOf(row), row);
  }
  announce(told);
  list.update(update.full ? null : new Set([...(update.rows ?? []).map(keyOf), ...(update.gone ?? [])]));
  load();
}

// say shows how the page is connected.
function say(state, text) {
  if (link.textContent === text) return;
  link.dataset.state = state;
  link.textContent = text;
}

// announce tells those who do not see the page what has changed.
function announce(told) {
  if (told.length) changes.textContent = told.length > 3 ? `${told.length} clusters have changed` : told.join(', ');
}

// load fetches the cluster that is looked at, if it is not shown as it is by now.
async function load() {
  if (!wanted || fetching) return;
  const row = rows.get(wanted);
  if (!row) {
    if (listed && fetched !== 'gone') {
      view.gone(wanted.slice(wanted.indexOf('/') + 1));
      fetched = 'gone';
    }
    return;
  }
  const revision = `${wanted} ${row.revision}`;
  if (fetched === revision) return;
  fetching = true;
  try {
    const answer = await fetch(address(row));
    if (answer.ok) {
      const cluster = await answer.json();
      if (keyOf(cluster) === wanted) {
        view.show(cluster);
        fetched = `${wanted} ${cluster.revision}`;
      }
    }
  } catch {
    return; // the stream says that the connection is lost, and begins again
  } finally {
    fetching = false;
  }
  if (rows.get(wanted) && fetched !== `${wanted} ${rows.get(wanted).revision}`) setTimeout(load, 250);
}

// route shows what the address of the page names.
function route() {
  const before = wanted;
  const match = location.hash.match(/^#\/clusters\/([^/]+)\/([^/]+)$/);
  const name = match ? decodeURIComponent(match[2]) : '';
  wanted = match ? `${decodeURIComponent(match[1])}/${name}` : '';
  fetched = '';
  document.getElementById('list').hidden = wanted !== '';
  document.getElementById('cluster').hidden = wanted === '';
  document.title = wanted ? `${name} – Keyturn` : 'Keyturn';
  if (wanted) {
    view.open(name);
    load();
  } else if (before) list.focus(before);
}

document.addEventListener('visibilitychange', connect);
addEventListener('hashchange', route);
addEventListener('keydown', (event) => {
  if (event.key === '/' && !wanted && event.target.tagName !== 'INPUT' && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById('find').focus();
  }
  if (event.key === 'Escape' && wanted) location.hash = '#/';
});
setInterval(() => tick(document.getElementById(wanted ? 'cluster' : 'list')), 1000);

fetch('admin').then((a) => a.json()).then((a) => { document.getElementById('admin').textContent = a.name; });
route();
connect();

// One cluster: sections, of which only those whose data has changed are made again, so that a reader keeps the place.

import { absolute, ago, el, moment, plural, table, versions } from './dom.js';
import { rotation, pastRotation } from './rotation.js';

export class ClusterView {
  constructor(root) {
    this.root = root;
    this.made = new Map();
  }

  // open makes room for a cluster that is about to be shown.
  open(name) {
    this.made.clear();
    this.root.replaceChildren(
      el('p', { class: 'back' }, el('a', { href: '#/' }, '← All clusters')),
      el('div', { class: 'title' }, el('h1', { tabindex: '-1' }, name)),
      el('div', { class: 'sections' }),
    );
    this.root.querySelector('h1').focus();
    scrollTo(0, 0);
  }

  gone(name) {
    this.open(name);
    this.root.querySelector('.sections').append(el('p', { class: 'muted' }, 'There is no such cluster.'));
  }

  show(cluster) {
    const { status } = cluster;
    const key = status.ksaSigningKey ?? {};
    const past = (key.rotations ?? []).slice(0, -1).reverse();
    this.title(cluster);
    const sections = [
      ['rotation', 'Rotation', [key.rotations?.at(-1), key.step, key.waitingFor, cluster.phase], () => rotation(key, cluster)],
      ['servers', 'API servers', [status.apiServers, key.keys], () => servers(status)],
      ['keys', 'Key versions', [key.keys, key.tokenVersion, key.privateKeyVersion, key.publicKeyVersions], () => keys(key)],
      ['outside', 'Destinations outside', [status.publications, key.keys], () => outside(status)],
      ['nodes', 'Nodes', [status.nodePools], () => nodes(status, cluster)],
      ['tokens', 'Tokens in use', [key.tokens, key.oldTokens, key.legacyTokens, cluster.tokens], () => tokens(key, cluster)],
      ['left', 'Private keys left on nodes', [leftover(status)], () => leftovers(status)],
      ['past', 'Earlier rotations', past, () => past.map(pastRotation)],
      ['conditions', 'Conditions', [status.conditions], () => conditions(status)],
      ['more', 'As data', [cluster.name], () => commands(cluster)],
    ];
    const parent = this.root.querySelector('.sections');
    for (const [id, name, data, make] of sections) this.section(parent, id, name, JSON.stringify(data), make);
  }

  title(cluster) {
    const text = JSON.stringify([cluster.state, cluster.phase, cluster.status.endpoint, cluster.kubernetes]);
    if (this.made.get('title') === text) return;
    this.made.set('title', text);
    const facts = [`namespace ${cluster.namespace}`, cluster.infrastructure, cluster.kubernetes === '-' ? '' : `Kubernetes ${cluster.kubernetes}`, cluster.status.endpoint];
    const title = this.root.querySelector('.title');
    title.querySelectorAll(':not(h1)').forEach((e) => e.remove());
    title.append(el('span', { class: 'state', 'data-phase': cluster.phase }, cluster.state),
      el('p', { class: 'muted facts' }, facts.filter(Boolean).join(' · ')));
  }

  // section makes a section again if its data has changed. One without content is left out.
  section(parent, id, name, data, make) {
    if (this.made.get(id) === data) return;
    this.made.set(id, data);
    const content = [make()].flat().filter(Boolean);
    const old = parent.querySelector(`#s-${id}`);
    const next = el('section', { id: `s-${id}`, 'aria-labelledby': `h-${id}`, hidden: !content.length },
      el('h2', { id: `h-${id}` }, name), content);
    for (const d of old?.querySelectorAll('details[open]') ?? []) {
      next.querySelector(`details[data-key="${CSS.escape(d.dataset.key)}"]`)?.setAttribute('open', '');
    }
    if (old) old.replaceWith(next);
    else parent.append(next);
  }
}

const number = (name) => ({ name, class: 'number' });
const wide = (name) => ({ name, class: 'wide' });

// known are the key versions that have a column of their own.
function known(status) {
  const all = new Set((status.ksaSigningKey?.keys ?? []).map((k) => k.version));
  for (const s of [...(status.apiServers ?? []), ...(status.publications ?? [])]) {
    for (const v of s.acceptedVersions ?? []) all.add(v);
    if (s.signingVersion) all.add(s.signingVersion);
  }
  return [...all].sort((a, b) => a - b);
}

// marks shows what is done with a key version.
function marks(accepts, signs) {
  const all = [accepts && 'accepts', signs && 'signs'].filter(Boolean);
  return all.length ? all.map((m) => [el('span', { class: 'mark', 'data-mark': m }, m), ' ']).flat() : el('span', { class: 'muted' }, '–');
}

function servers(status) {
  const all = status.apiServers ?? [];
  if (!all.length) return el('p', { class: 'muted' }, 'None was seen yet.');
  const columns = known(status);
  const foreign = all.some((s) => s.foreignKeyIDs?.length);
  return table('API servers', ['Name', 'Ready', ...columns.map((v) => `Key version ${v}`), ...(foreign ? [wide('Foreign keys')] : []), wide('Endpoint')],
    all.map((s) => [
      s.name, el('span', { class: 'yes', 'data-yes': String(Boolean(s.ready)) }, s.ready ? 'yes' : 'no'),
      ...columns.map((v) => marks(s.acceptedVersions?.includes(v), s.signingVersion === v)),
      ...(foreign ? [el('code', {}, (s.foreignKeyIDs ?? []).join(', ') || '–')] : []), s.endpoint,
    ]));
}

function keys(key) {
  if (!key.keys?.length) return el('p', { class: 'muted' }, 'None is stored yet.');
  return [table('Key versions', [number('Version'), 'Algorithm', 'Stored', 'Age', wide('Key ID (kid)')],
    key.keys.map((k) => [String(k.version), k.algorithm, moment(k.createdAt), ago(k.createdAt), el('code', {}, k.keyID)])),
  el('p', { class: 'muted' }, `Tokens may be of version ${key.tokenVersion ?? '–'} or later, API servers sign with ${key.privateKeyVersion ?? '–'} `
    + `or later, and accept ${versions(key.publicKeyVersions)}.`)];
}

function outside(status) {
  const all = status.publications ?? [];
  if (!all.length) return el('p', { class: 'muted' }, 'No fleet and no bucket gets the public keys of this cluster.');
  const columns = known(status);
  return table('Destinations outside', [wide('Destination'), ...columns.map((v) => `Key version ${v}`), 'Published', wide('Waiting for')],
    all.map((p) => [p.name, ...columns.map((v) => marks(p.acceptedVersions?.includes(v))), ago(p.publishedAt, { suffix: ' ago' }), p.waitingFor ?? '–']));
}

function nodes(status, cluster) {
  const all = status.nodePools ?? [];
  if (!all.length) {
    return el('p', { class: 'muted' }, cluster.infrastructure === 'local' ? 'There are no node pools.' : 'Keyturn does not make the nodes of this cluster.');
  }
  return table('Node pools', ['Pool', number('Nodes'), number('Ready'), number('Made since the switch')],
    all.map((p) => [p.name, String(p.replicas), String(p.ready), String(p.updated)]));
}

function tokens(key, cluster) {
  const seen = key.tokens ?? {};
  const content = [];
  if (cluster.tokens.length) {
    content.push(table('Tokens in use', ['Workload', 'Kind', 'Account', 'Audience', number('Key'), number('Tokens'), 'Until', wide('New one by')],
      cluster.tokens.map((t) => [t.workload, t.kind, t.account, t.audience, t.key, String(t.count), until(t), t.refresh])));
  }
  for (const why of seen.unknown ?? []) content.push(el('p', {}, `Not known: ${why}`));
  if (seen.old?.length) {
    content.push(el('p', {}, 'Of the old key: ', seen.old.map((o) => `${o.count} ${o.kind}`).join(', '),
      seen.certainAt ? `; none can live after ${absolute(seen.certainAt)}` : ''));
  }
  const legacy = key.legacyTokens ?? {};
  content.push(el('p', { class: 'muted' }, `${plural(legacy.total ?? 0, 'legacy token Secret')}, ${legacy.stale ?? 0} not of the wanted key version. `,
    seen.observedAt ? ['Seen ', ago(seen.observedAt, { suffix: ' ago' }), '. '] : 'Nobody has asked for the tokens lately. ',
    'To ask again: ', el('code', {}, cluster.commands.tokens)));
  if (key.oldTokens) {
    content.push(el('h3', {}, `Pods that keep a token of an older key until they start again: ${key.oldTokens.total}`),
      table('Pods with old tokens', ['Pod', wide('Holds')], (key.oldTokens.pods ?? []).map((p) => [`${p.namespace}/${p.name}`, p.holds])));
  }
  return content;
}

function until(t) {
  return t.expiresAt ? [moment(t.expiresAt), ' (', ago(t.expiresAt, { suffix: ' ago' }), ')'] : t.expires;
}

// leftover is what the status has of any infrastructure.
function leftover({ infrastructure: on }) {
  return (on?.kubeadm ?? on?.clusterAPI)?.leftovers;
}

function leftovers(status) {
  const all = leftover(status) ?? [];
  return all.length && table('Private keys left on nodes', ['Node', wide('File'), wide('Key ID (kid)')],
    all.map((l) => [l.node, l.path, el('code', {}, l.keyID ?? '–')]));
}

function conditions(status) {
  return table('Conditions', ['Type', 'Status', 'Reason', 'For', wide('Message')], (status.conditions ?? []).map((c) => [
    c.type, c.status, c.reason, ago(c.lastTransitionTime), c.message]));
}

function commands(cluster) {
  return el('p', {}, el('code', {}, cluster.commands.describe));
}

// A rotation as a sequence of its five steps: where it is, how long each step took, and what it waited for.

import { ago, between, el, moment, table } from './dom.js';

const steps = [
  ['Generate', 'A new key pair is stored'],
  ['Publish', 'Every verifier accepts both keys'],
  ['Switch', 'API servers sign with the new key'],
  ['Refresh', 'Tokens of the old key are replaced'],
  ['Retire', 'The old key is taken away'],
];

// rotation shows the latest rotation of a cluster.
export function rotation(key, cluster) {
  const latest = key.rotations?.at(-1);
  if (!latest) return el('p', { class: 'muted' }, cluster.phase === 'ready' ? 'No key of this cluster was rotated yet.' : cluster.waitingFor ?? '');
  return [headline(latest), sequence(latest, key.step, cluster), waiting(key, cluster), timeLine(latest)];
}

function headline(r) {
  const from = r.version > 1 ? `From key version ${r.version - 1} to ${r.version}` : `To key version ${r.version}`;
  return el('p', { class: 'headline' }, `${from}, started `, moment(r.startedAt), r.completedAt
    ? [', completed ', ago(r.completedAt, { suffix: ' ago' }), ` after ${between(r.startedAt, r.completedAt)}`]
    : [', running for ', ago(r.startedAt)]);
}

function sequence(r, running, cluster) {
  return el('ol', { class: 'steps', 'aria-label': 'Steps of the rotation' }, steps.map(([name, what]) => {
    const step = r.steps?.find((s) => s.name === name);
    let state = step ? 'done' : 'todo';
    if (!r.completedAt && name === running) state = cluster.phase === 'blocked' ? 'blocked' : 'now';
    const said = { done: 'done', now: 'runs', blocked: 'blocked', todo: r.completedAt ? 'not seen' : 'to come' }[state];
    return el('li', { 'data-state': state, 'data-step': name, 'aria-current': name === running && 'step' },
      el('b', {}, name), el('span', { class: 'what' }, what),
      el('span', { class: 'took' }, said, ' ', step ? took(step) : ''));
  }));
}

function took(step) {
  return step.completedAt ? between(step.startedAt, step.completedAt) : ago(step.startedAt);
}

function waiting(key, cluster) {
  if (!key.waitingFor) return null;
  const blocked = cluster.phase === 'blocked';
  return el('p', { class: 'waiting', 'data-blocked': String(blocked) },
    el('b', {}, blocked ? 'Blocked, a person must act. ' : ''), 'Waiting for ', key.waitingFor);
}

function timeLine(r) {
  return table(`Time line of the rotation to key version ${r.version}`,
    ['Step', 'Started', { name: 'Took', class: 'number' }, { name: 'Waited for', class: 'wide' }],
    (r.steps ?? []).map((s) => [s.name, moment(s.startedAt), took(s), waits(s)]));
}

function waits(step) {
  const all = step.waits ?? [];
  if (!all.length) return el('span', { class: 'muted' }, 'nothing');
  return el('ul', {}, all.map((w) => el('li', { 'data-blocked': String(Boolean(w.blocked)) },
    el('span', { class: 'lasted' }, w.completedAt ? between(w.startedAt, w.completedAt) : ago(w.startedAt)),
    ' ', w.blocked ? 'blocked: ' : '', w.for)));
}

// pastRotation shows an earlier rotation, closed at first.
export function pastRotation(r) {
  const how = r.completedAt ? `took ${between(r.startedAt, r.completedAt)}` : 'was replaced by the next one';
  return el('details', { 'data-key': r.startedAt },
    el('summary', {}, `To key version ${r.version}: `, moment(r.startedAt), `, ${how}`), timeLine(r));
}

package gkehub

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	hub "google.golang.org/api/gkehub/v1"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// wanted is what a membership should hold.
type wanted struct {
	// own are all keys of the cluster, and keys those to publish.
	own, keys jwks.Set
	stage     int
}

// Publish implements fleet.Publisher: it registers the membership if there is none, and makes its JWKS these keys.
func (m *Membership) Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	own, err := setOf(keys)
	if err != nil {
		return m.failed("publishing to", err)
	}
	published, err := setOf(fleet.Only(keys, versions))
	if err != nil {
		return m.failed("publishing to", err)
	}
	want := wanted{own: own, keys: published, stage: fleet.Stage(versions)}
	ctx, cancel := context.WithTimeout(ctx, m.o.Timeout)
	defer cancel()
	return m.failed("publishing to", m.retry(ctx, func() error { return m.publish(ctx, want) }))
}

func setOf(keys []keystore.KeyPair) (jwks.Set, error) {
	if len(keys) == 0 {
		return jwks.Set{}, errors.New("no keys: every token would be refused")
	}
	public := make([]jwks.Key, 0, len(keys))
	for _, k := range keys {
		if err := k.Validate(); err != nil {
			return jwks.Set{}, err
		}
		public = append(public, jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()})
	}
	return jwks.NewSet(public...)
}

// publish reads, writes what is missing, and reads back. A crash before the write changes nothing. After a crash after
// the write, the next call finds the result, or the operation under way.
func (m *Membership) publish(ctx context.Context, want wanted) error {
	write, err := m.missing(ctx, want)
	if err != nil || write == nil {
		return err
	}
	if err := m.finish(ctx, write); err != nil {
		return err
	}
	write, err = m.missing(ctx, want)
	if err == nil && write != nil {
		err = &failure{why: "it reads back differently than written", again: true}
	}
	return err
}

// operation starts a long-running operation.
type operation func() (*hub.Operation, error)

// missing returns the write that publishes exactly these keys; nil if they are published already.
func (m *Membership) missing(ctx context.Context, want wanted) (operation, error) {
	document, err := want.keys.Marshal()
	if err != nil {
		return nil, err
	}
	membership := &hub.Membership{
		ExternalId: m.o.ExternalID,
		Labels:     map[string]string{stageLabel: strconv.Itoa(want.stage)},
		Authority:  &hub.Authority{Issuer: m.o.Issuer, OidcJwks: base64.StdEncoding.EncodeToString(document)},
	}
	found, err := m.get(ctx)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return func() (*hub.Operation, error) {
			m.o.Log.InfoContext(ctx, "registering fleet membership", "membership", m.name, "keys", want.keys.Len())
			return m.memberships.Create(m.o.parent(), membership).MembershipId(m.o.Membership).Context(ctx).Do()
		}, nil
	}
	if stateOf(found) == deleting { // whoever owns it, its name will be free
		return nil, stillBusy(found)
	}
	if err := m.check(found); err != nil {
		return nil, err
	}
	if stateOf(found).busy() {
		return nil, stillBusy(found)
	}
	is := read(found)
	if err := is.checkKeys(want); err != nil {
		return nil, err
	}
	if is.issuer == m.o.Issuer && is.readable && is.stage == want.stage && same(is.keys, want.keys) {
		return nil, nil
	}
	for label, value := range found.Labels {
		if label != stageLabel {
			membership.Labels[label] = value
		}
	}
	return func() (*hub.Operation, error) {
		m.o.Log.InfoContext(ctx, "publishing keys in fleet membership", "membership", m.name, "keys", want.keys.Len())
		return m.memberships.Patch(m.name, membership).UpdateMask("authority,labels").Context(ctx).Do()
	}, nil
}

// check fails unless the membership belongs to the cluster, with its issuer or none. A membership of somebody else is
// never taken over: its workloads would be locked out, and ours would get their permissions.
func (m *Membership) check(found *hub.Membership) error {
	if found.ExternalId != m.o.ExternalID {
		return &failure{
			why: fmt.Sprintf("it belongs to another cluster: its externalId is %q, not %q", said(found.ExternalId),
				m.o.ExternalID),
			kind: fleet.ErrForeign,
			cure: "give this cluster another name, or delete the membership if its cluster is gone",
		}
	}
	if issuer := read(found).issuer; issuer != "" && issuer != m.o.Issuer {
		return &failure{
			why:  fmt.Sprintf("its issuer is %q, not %q, and an issuer cannot be changed", said(issuer), m.o.Issuer),
			kind: fleet.ErrForeign,
			cure: "clear authority.issuer of the membership manually if nothing uses it",
		}
	}
	return nil
}

// checkKeys refuses to replace keys that the cluster does not have, and keys of a later step.
func (is contents) checkKeys(want wanted) error {
	if is.stage > want.stage {
		return &failure{
			why:  fmt.Sprintf("keys of stage %d are published, and these are of stage %d", is.stage, want.stage),
			cure: "delete the membership if the cluster was restored from a backup", kind: fleet.ErrStale,
		}
	}
	if foreign := foreignKeys(is, want.own); foreign != "" {
		return &failure{
			why:  "it holds keys that the cluster does not have: kid " + foreign,
			cure: "delete the membership if nobody uses them; it is registered again", kind: fleet.ErrForeign,
		}
	}
	return nil
}

// Remove implements fleet.Publisher: it deletes the membership. A membership of another cluster was not made by
// Publish, so it stays, without an error. Bindings and features that somebody else added to the membership prevent its
// deletion.
func (m *Membership) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.Timeout)
	defer cancel()
	return m.failed("removing", m.retry(ctx, func() error { return m.remove(ctx) }))
}

// remove deletes and reads again. After a crash after the deletion began, the next call waits for its end.
func (m *Membership) remove(ctx context.Context) error {
	found, err := m.get(ctx)
	if err != nil || found == nil || found.ExternalId != m.o.ExternalID {
		return err
	}
	if stateOf(found).busy() {
		return stillBusy(found)
	}
	m.o.Log.InfoContext(ctx, "deleting fleet membership", "membership", m.name)
	err = m.finish(ctx, func() (*hub.Operation, error) { return m.memberships.Delete(m.name).Context(ctx).Do() })
	if err != nil {
		return err
	}
	return &failure{why: "it is deleted, but still there", busy: true, again: true}
}

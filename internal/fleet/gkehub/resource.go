package gkehub

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"

	hub "google.golang.org/api/gkehub/v1"
	"google.golang.org/grpc/codes"

	"github.com/keyturn/keyturn/jwks"
)

// state is the state.code of a membership. SERVICE_UPDATING does not count as busy: it is for changes by GKE Hub
// itself, which accepts writes meanwhile.
type state string

const (
	creating state = "CREATING"
	updating state = "UPDATING"
	deleting state = "DELETING"
)

func stateOf(found *hub.Membership) state {
	if found.State == nil {
		return ""
	}
	return state(found.State.Code)
}

func (s state) busy() bool { return s == creating || s == updating || s == deleting }

func stillBusy(found *hub.Membership) *failure {
	return &failure{
		why: fmt.Sprintf("another operation on it is still running (%s)", stateOf(found)), busy: true, again: true,
	}
}

// get reads the membership; it returns nil without an error if there is none.
func (m *Membership) get(ctx context.Context) (*hub.Membership, error) {
	var found *hub.Membership
	err := m.retry(ctx, func() error {
		var err error
		found, err = m.memberships.Get(m.name).Context(ctx).Do()
		if !isNotFound(err) {
			return err
		}
		if found = nil; isOfHub(err) {
			return nil
		}
		return &failure{why: "there is no GKE Hub at " + m.o.Endpoint, cure: "check gkeConnect.endpoint"}
	})
	return found, err
}

// finish starts an operation and waits for its end.
func (m *Membership) finish(ctx context.Context, begin operation) error {
	op, err := begin()
	for pause := firstWait; err == nil && !op.Done; pause = min(2*pause, maxWait) {
		if !sleep(ctx, pause) {
			return &failure{why: fmt.Sprintf("its operation %s is still running", op.Name), busy: true, end: ctx.Err()}
		}
		name := op.Name
		err = m.retry(ctx, func() error {
			var err error
			op, err = m.operations.Get(name).Context(ctx).Do()
			return err
		})
	}
	if err != nil || op.Error == nil {
		return err
	}
	return ended(op.Error)
}

// passing are the codes of failed operations that may succeed when repeated.
var passing = []codes.Code{
	codes.NotFound, codes.AlreadyExists, codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.Unavailable,
	codes.DeadlineExceeded,
}

func ended(status *hub.GoogleRpcStatus) *failure {
	code := codes.Code(uint32(max(status.Code, 0)))
	return &failure{
		why:   fmt.Sprintf("its operation failed (%s): %s", code, said(status.Message)),
		again: slices.Contains(passing, code),
	}
}

// contents is the data of a membership about tokens.
type contents struct {
	issuer string
	// pool and provider name the membership to the STS; empty if GKE Hub does not return them.
	pool, provider string
	// some means that there is a JWKS, and readable that keys contains all of it.
	some, readable bool
	keys           jwks.Set
	// stage is the fleet.Stage of the keys; 0 if there is none.
	stage int
}

// stageLabel is the label of a membership that holds the stage of its keys.
const stageLabel = "keyturn-stage"

// read reads a membership; without one, nothing is published.
func read(found *hub.Membership) contents {
	if found == nil || found.Authority == nil {
		return contents{readable: true}
	}
	a := found.Authority
	is := contents{
		issuer: a.Issuer, pool: a.WorkloadIdentityPool, provider: a.IdentityProvider, some: a.OidcJwks != "",
		readable: a.OidcJwks == "",
	}
	is.stage, _ = strconv.Atoi(found.Labels[stageLabel])
	if document, err := base64.StdEncoding.DecodeString(a.OidcJwks); err == nil && is.some {
		var others int
		is.keys, others, err = jwks.ParseUsable(document)
		is.readable = err == nil && others == 0
	}
	return is
}

// same reports whether two sets hold the same keys, in any order.
func same(a, b jwks.Set) bool {
	return a.Len() == b.Len() && !slices.ContainsFunc(a.Keys(), func(k jwks.Key) bool { return !has(b, k) })
}

// has reports whether a set contains exactly this key, since anybody can give another one the same kid.
func has(set jwks.Set, k jwks.Key) bool {
	listed, ok := set.Lookup(k.KeyID)
	if !ok || listed.Algorithm != k.Algorithm {
		return false
	}
	a, errA := jwks.MarshalPublicKey(listed.Public)
	b, errB := jwks.MarshalPublicKey(k.Public)
	return errA == nil && errB == nil && string(a) == string(b)
}

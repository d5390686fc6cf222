package agent

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// planKeys writes sa.pub and sa.key, the signing key's public key first: kubeadm, and what reads these files as kubeadm
// does, takes the first key of sa.pub for that of sa.key.
//
// The files cannot change in one step. So sa.pub goes first, and accepts the signing key of before too, until sa.key is
// another one.
func planKeys(s keySet, on pair) ([]Action, error) {
	want, err := s.wanted()
	if err != nil {
		return nil, err
	}
	for _, kid := range on.kids {
		if slices.Contains(s.order.Keep, kid) {
			want = union(want, kid)
		}
	}
	var actions []Action
	last := on.kids
	write := func(kids []string) error {
		if slices.Equal(last, kids) {
			return nil
		}
		last = kids
		text, err := marshal(kids, s.public, on.public, on.signing())
		actions = append(actions, Action{File: File{PKI, publicFile}, Content: text})
		return err
	}
	if on.private != want[0] {
		if err := write(union(want, on.private)); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(s.keys, func(k hostkeys.Key) bool { return k.Version == s.order.Keys.Sign })
		if i < 0 {
			return nil, fmt.Errorf("the private key of version %d is wanted and was not given", s.order.Keys.Sign)
		}
		private, err := token.MarshalPrivateKey(s.keys[i].Signer)
		if err != nil {
			return nil, err
		}
		actions = append(actions, Action{File: File{PKI, privateFile}, Content: private})
	}
	return actions, write(want)
}

// union adds a kid that is not there.
func union(kids []string, kid string) []string {
	if kid == "" || slices.Contains(kids, kid) {
		return kids
	}
	return append(slices.Clone(kids), kid)
}

// wanted returns the kids of sa.pub: the signing key, then the other versions, then foreign keys.
func (s keySet) wanted() ([]string, error) {
	first, err := s.kid(s.order.Keys.Sign)
	if err != nil {
		return nil, err
	}
	kids := []string{first}
	for _, version := range s.order.Keys.Verify {
		kid, err := s.kid(version)
		if err != nil {
			return nil, err
		}
		kids = union(kids, kid)
	}
	for _, kid := range s.foreign {
		kids = union(kids, kid)
	}
	return kids, nil
}

// marshal returns public keys as PEM, one after another.
func marshal(kids []string, known ...map[string]crypto.PublicKey) ([]byte, error) {
	var text bytes.Buffer
	for _, kid := range kids {
		var public crypto.PublicKey
		for _, keys := range known {
			if k, ok := keys[kid]; ok {
				public = k
			}
		}
		block, err := jwks.MarshalPublicKey(public)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", kid, err)
		}
		text.Write(block)
	}
	return text.Bytes(), nil
}

// undoUnion has sa.pub accept the signing key of now too while sa.key is put back, if the sa.pub of before does not.
// Files that cannot be read are put back without.
func undoUnion(h Host) *Action {
	now, errNow := h.pair()
	before, errBefore := Host{Files: h.Undo.Before}.pair()
	if errNow != nil || errBefore != nil || now.private == before.private {
		return nil
	}
	kids := union(before.kids, now.private)
	if len(kids) == len(before.kids) {
		return nil
	}
	text, err := marshal(kids, now.public, before.public, now.signing())
	if err != nil {
		return nil
	}
	return &Action{File: File{PKI, publicFile}, Content: text}
}

package machines

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/keyturn/keyturn/internal/local/machine"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/token"
)

// Remember implements nodes.Refresher.
func (m *Machines) Remember(_ context.Context, of nodes.Machine) error {
	return m.set.Remember(of.Name, of.KeyVersion, machine.Refresh{
		Version: of.Refresh.KeyVersion, Since: of.Refresh.Since, Proven: of.Refresh.Proven,
	})
}

// RestartKubelet implements nodes.Refresher.
func (m *Machines) RestartKubelet(_ context.Context, name string) error {
	return m.set.RestartKubelet(name)
}

// Tokens implements nodes.Refresher.
func (m *Machines) Tokens(_ context.Context, name string, files []nodes.TokenFile) ([]nodes.Token, error) {
	if len(files) == 0 {
		return nil, nil
	}
	paths := make([]machine.PodFile, len(files))
	for i, f := range files {
		paths[i] = machine.PodFile{PodUID: string(f.Pod), Volume: f.Volume, Path: f.Path}
	}
	tokens := make([]nodes.Token, len(files))
	err := m.set.ReadPodFiles(name, paths, token.MaxSize+1, func(i int, content []byte, err error) {
		tokens[i] = tokenIn(content, err)
	})
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

// tokenIn describes the token in a file, without anything secret: no error of package token quotes a token.
func tokenIn(content []byte, err error) nodes.Token {
	if errors.Is(err, fs.ErrNotExist) {
		return nodes.Token{Missing: true}
	}
	if err != nil {
		return nodes.Token{Problem: err.Error()}
	}
	header, claims, err := token.ParseUnverified(strings.TrimSpace(string(content)))
	if err != nil {
		return nodes.Token{Problem: err.Error()}
	}
	t := nodes.Token{KeyID: header.KeyID, IssuedAt: claims.IssuedAt.Time(), RenewBy: claims.Expiry.Time()}
	if claims.Kubernetes != nil && claims.Kubernetes.WarnAfter != 0 {
		t.RenewBy = claims.Kubernetes.WarnAfter.Time()
	}
	return t
}

// refreshOf returns what was observed of the replacement of tokens on a machine.
func refreshOf(s machine.State) nodes.Refresh {
	r := s.Spec.Refresh
	if r == nil {
		return nodes.Refresh{}
	}
	return nodes.Refresh{KeyVersion: r.Version, Since: r.Since, Kubelet: s.Kubelet, Proven: r.Proven}
}

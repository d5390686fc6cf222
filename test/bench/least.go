package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// compareLeast has two bare API servers issue tokens by turns, one with a key from a file, and one with the least
// signer that there can be: a program that makes a signature and answers a constant. No signer can do better than that.
func (p *place) compareLeast(ctx context.Context, q *Requests) (err error) {
	dir := filepath.Join(p.dir, "least-"+string(q.Algorithm))
	key, err := token.GenerateKey(rand.Reader, string(q.Algorithm))
	if err != nil {
		return err
	}
	signer, err := p.startBare(ctx, dir, key)
	if err != nil {
		return err
	}
	defer signer.end()
	least, stop, err := newBareIssuer(ctx, map[string][]string{
		"service-account-signing-endpoint": {barePath(dir)},
		"service-account-key-file":         nil,
		"service-account-signing-key-file": nil,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	public, err := jwks.MarshalPublicKey(key.Public())
	if err != nil {
		return err
	}
	verifying := filepath.Join(dir, "public.pem")
	if err := os.WriteFile(verifying, public, 0o600); err != nil {
		return err
	}
	files, stopFiles, err := newBareIssuer(ctx, map[string][]string{
		"service-account-key-file": {verifying}, "service-account-signing-key-file": {bareKeyFile(dir)},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopFiles()) }()
	for i := range requestRounds + 1 {
		p.say("TokenRequests with the least signer, %s, round %d of %d", q.Algorithm, i, requestRounds)
		err := inTurn(i,
			func() error { return note(&q.Least)(request(ctx, least)) },
			func() error { return note(&q.LeastFiles)(request(ctx, files)) })
		if err != nil {
			return err
		}
	}
	q.Least, q.LeastFiles = q.Least[1:], q.LeastFiles[1:] // the first ones made the connections
	return nil
}

// newBareIssuer starts an API server outside any cluster, and returns clients with a connection each.
func newBareIssuer(
	ctx context.Context, args map[string][]string,
) (clients []kubernetes.Interface, stop func() error, err error) {
	config, stop, err := kubetest.Launch(kubetest.Options{APIServerArgs: args})
	if err != nil {
		return nil, nil, err
	}
	if clients, err = connections(config); err == nil {
		err = makeRobot(ctx, clients[0])
	}
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return clients, stop, nil
}

// connections returns clients with a connection each.
func connections(config *rest.Config) (clients []kubernetes.Interface, err error) {
	for range requestClients {
		own := controlplane.Unlimited(config)
		own.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext // or else client-go gives all of them one connection
		c, err := kubernetes.NewForConfig(own)
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// makeRobot makes the ServiceAccount whose tokens are asked for.
func makeRobot(ctx context.Context, c kubernetes.Interface) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: robot}}
	_, err := c.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Create(ctx, account, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making a ServiceAccount: %w", err)
	}
	return nil
}

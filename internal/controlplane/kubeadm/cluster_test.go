package kubeadm_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"

	"github.com/keyturn/keyturn/internal/controlplane"
	adapter "github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/token"
)

// TestRealCluster finds the API server of a cluster that kubeadm made, and proves which key it signs with and accepts,
// through the load balancer.
func TestRealCluster(t *testing.T) {
	c := kubeadmtest.New(t, kubeadm.Options{Algorithm: "ECDSA-P384"})
	c.Must(c.Start(t.Context(), "cp-1", kubeadm.ControlPlane))
	c.Must(c.Init(t.Context(), "cp-1"))
	var found adapter.Found
	c.Eventually("the mirror pods, which come later than what they mirror", func(ctx context.Context) (err error) {
		found, err = adapter.Find(ctx, c.Client())
		if err == nil && (len(found.Servers) != 1 || found.Servers[0].Waiting != "" || len(found.Problems) > 0) {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	config, err := c.Config()
	c.Must(err)
	own, err := adapter.Config(config, found.Servers[0])
	c.Must(err)
	raw, err := c.ReadFile("cp-1", found.Servers[0].SignFile)
	c.Must(err)
	signer, err := token.ParsePrivateKey(raw)
	c.Must(err)
	key, err := keystore.New(1, signer)
	c.Must(err)
	stranger, err := keystore.Generate(rand.Reader, 2, "ES256")
	c.Must(err)

	var prover controlplane.Prover
	proof, err := prover.Prove(t.Context(), controlplane.Question{Config: own, Keys: []keystore.KeyPair{key, stranger}})
	c.Must(err)
	if proof.Signs != 1 || !slices.Equal(proof.Accepts, []int{1}) || !slices.Equal(proof.Refuses, []int{2}) {
		t.Errorf("proven is %+v", proof)
	}

	// The forwarded port ends at the API server of another node: its certificate is not for this one.
	other := found.Servers[0]
	own.ServerName = other.Node + "-2"
	if _, err := prover.Prove(t.Context(), controlplane.Question{Config: own, Keys: []keystore.KeyPair{key}}); err == nil {
		t.Error("an API server with the certificate of another node was believed")
	}
}

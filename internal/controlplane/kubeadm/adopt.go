package kubeadm

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// SigningKey implements controlplane.Adopter. An agent sends sa.key, sealed to a key that is made for this one call.
func (c *Cluster) SigningKey(ctx context.Context, keyID string) (crypto.Signer, error) {
	v, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.problems(); err != nil {
		return nil, err
	}
	for _, n := range v.staying() {
		if !n.ready || n.served.SigningKeyID != keyID {
			continue
		}
		if n.served.External {
			return nil, controlplane.Blocked(fmt.Errorf("kube-apiserver on node %s signs with a signer, which gives its key to "+
				"nobody: let it sign with sa.key first", n.Node))
		}
		missing, err := c.ensureAgents(ctx, v, []*node{n})
		if err != nil || missing {
			return nil, err
		}
		return c.fetchKey(ctx, v, n, keyID)
	}
	return nil, fmt.Errorf("no API server signs with key %s any more", keyID)
}

func (c *Cluster) fetchKey(ctx context.Context, v *view, n *node, keyID string) (crypto.Signer, error) {
	own, err := agent.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	o := c.order(v, n, agent.Send)
	o.Recipient = own.Public()
	r, err := c.agents.apply(ctx, *n.pod, o)
	if err == nil {
		err = answer(n.Node, r)
	}
	if err != nil || r.Answer != agent.Done {
		return nil, err
	}
	text, err := own.OpenSent(r.Sealed, o.Cluster)
	if err != nil {
		return nil, fmt.Errorf("opening the private key that the agent on node %s sent: it is not sealed to this call",
			n.Node)
	}
	defer clear(text)
	signer, err := token.ParsePrivateKey(text)
	if err != nil {
		return nil, controlplane.Blocked(fmt.Errorf("sa.key on node %s: %w", n.Node, err))
	}
	kid, err := jwks.KeyID(signer.Public())
	if err == nil && kid != keyID {
		err = controlplane.Blocked(fmt.Errorf("sa.key on node %s is key %s, and kube-apiserver there signs with key %s: was "+
			"the file replaced and kube-apiserver not restarted?", n.Node, kid, keyID))
	}
	return signer, err
}

// digest shortens a text to letters that an annotation of a manifest may have.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

package kubeadm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/inuse"
)

// sign has the signer of a node sign a token of nobody's pod.
func (h *host) sign(ctx context.Context) {
	conn := must(grpc.NewClient("unix://"+h.StateDir+"/signer/socket",
		grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer func() { must(0, conn.Close()) }()
	claims := fmt.Sprintf(`{"aud":["a"],"exp":%d,"kubernetes.io":{"namespace":"ci"},"sub":"system:serviceaccount:ci:runner"}`,
		time.Now().Add(time.Hour).Unix())
	must(externaljwt.NewExternalJWTSignerClient(conn).Sign(ctx,
		&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))}))
}

// TestLedger reads what the signers of a cluster know, also when no agent is there, and adds it up.
func TestLedger(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	if _, err := w.adapter().Ledger(t.Context(), "a"); !errors.Is(err, controlplane.ErrNoLedger) {
		t.Errorf("an API server without a signer: %v", err)
	}
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	w.host("b").sign(t.Context())
	if _, err := w.adapter().Ledger(t.Context(), "nobody"); err == nil || errors.Is(err, controlplane.ErrNoLedger) {
		t.Errorf("a node that is not there: %v", err)
	}
	key := w.keys()[0]
	in := inuse.Input{Keys: []inuse.Key{{Version: 2, ID: key.KeyID, From: key.CreatedAt}}, Now: time.Now(), MaxLife: time.Hour}
	for _, name := range []string{"a", "b"} {
		report, err := w.adapter().Ledger(t.Context(), name)
		if err != nil || report.Since.IsZero() {
			t.Fatalf("the ledger of node %s: %+v, %v", name, report, err)
		}
		in.Signers = append(in.Signers, inuse.Signer{Name: name, Report: report})
	}
	rows := inuse.Sum(in).Rows
	if len(rows) != 1 || rows[0].Account != "runner" || rows[0].Version != 2 || rows[0].Count != 1 {
		t.Errorf("in use are %+v", rows)
	}
}

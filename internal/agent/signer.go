package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	_ "embed" // the manifest
	"fmt"
	"regexp"
	"text/template"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
)

//go:embed signer.yaml
var signerText string

var signerTemplate = template.Must(template.New("signer").Parse(signerText))

// The words that the manifest takes without quotes.
var (
	imageName = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9./:@_-]*$`)
	plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
	plainName = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
)

// signerPod returns the manifest of the static pod that runs keyturn-signer.
func signerPod(image, namespace string, p Paths) ([]byte, error) {
	if !plainName.MatchString(namespace) {
		return nil, fmt.Errorf("the manifest of the signer cannot name namespace %q", namespace)
	}
	if !imageName.MatchString(image) || !plainPath.MatchString(p.SignerDir) || !plainPath.MatchString(p.KeyDir) {
		return nil, fmt.Errorf("the manifest of the signer cannot name image %q, and paths %q and %q",
			image, p.SignerDir, p.KeyDir)
	}
	var text bytes.Buffer
	err := signerTemplate.Execute(&text, struct {
		Image, Namespace string
		Paths
	}{image, namespace, p})
	return text.Bytes(), err
}

// askTimeout is how long a signer may take to answer.
const askTimeout = 5 * time.Second

// serving returns the kids of the keys that a signer serves on a socket.
func serving(ctx context.Context, socket string) (kids []string, err error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := externaljwt.NewExternalJWTSignerClient(conn).FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
	if err != nil {
		return nil, err
	}
	for _, served := range r.Keys {
		public, err := x509.ParsePKIXPublicKey(served.Key)
		if err != nil {
			return nil, fmt.Errorf("key %s of the signer: %w", served.KeyId, err)
		}
		k, err := jwks.NewKey(public)
		if err != nil {
			return nil, fmt.Errorf("key %s of the signer: %w", served.KeyId, err)
		}
		kids = append(kids, k.KeyID)
	}
	return kids, nil
}

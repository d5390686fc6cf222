package signer_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinks keeps the program that holds keys small: no client of the Kubernetes API, and nothing that brings one.
func TestLinks(t *testing.T) {
	const command = "github.com/keyturn/keyturn/cmd/keyturn-signer"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", command).Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"github.com/keyturn/keyturn/cmd/keyturn-signer", "github.com/keyturn/keyturn/internal/signer",
		"github.com/keyturn/keyturn/internal/strictjson", "github.com/keyturn/keyturn/jwks", "github.com/keyturn/keyturn/token",
		"google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc/status", "google.golang.org/protobuf", "k8s.io/externaljwt/apis/v1",
		"github.com/fsnotify/fsnotify", "github.com/miekg/pkcs11", "golang.org/x/", "vendor/", "crypto/",
		"github.com/prometheus/", "github.com/beorn7/perks", "github.com/cespare/xxhash", "github.com/munnerz/goautoneg",
		"go.yaml.in/yaml/v2", "github.com/klauspost/compress",
	}
	seen := 0
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
			continue // the standard library
		}
		seen++
		fits := false
		for _, prefix := range allowed {
			fits = fits || name == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(name, strings.TrimSuffix(prefix, "/")+"/")
		}
		if !fits {
			t.Errorf("keyturn-signer links %s", name)
		}
	}
	if seen == 0 {
		t.Error("nothing was checked")
	}
}
